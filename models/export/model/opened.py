"""Layers of the user's own replaced by what they compute: their `call` is run once on symbolic tensors.

A layer that cannot be opened so stays whole, for tf2onnx.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
from keras import layers, ops

from models.export.model.tensorflow_calls import batch_first, tensorflow_calls
from models.export.model.trace import Edge, functional, replay, trace

_DEEPEST = 8  # layers of the user's own within each other
# Code that is not the user's.
_LIBRARIES = ("keras", "tensorflow", "models", "service")


def open_layer(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `layer` computes from symbolic tensors, as calls of its own layers and of operations."""
    if isinstance(layer, layers.Lambda):
        wanted = inspect.signature(layer.function).parameters  # Keras gives a mask, which few functions take
        settings = {name: value for name, value in kwargs.items() if name in wanted}
        with tensorflow_calls():
            return layer.function(*args, **{**(layer.arguments or {}), **settings})
    accepted = inspect.signature(layer.call).parameters
    settings = {name: value for name, value in kwargs.items() if name in accepted}
    with tensorflow_calls():
        return layer.call(*args, **{**settings, **({"training": False} if "training" in accepted else {})})


def opened(model: keras.Model) -> keras.Model:
    """`model` with the user's own layers replaced by what they compute, as deep as they go, and the batch of reshapes as -1."""
    closed: dict[int, Any] = {}
    for _ in range(_DEEPEST):
        flat = trace(model)
        if not any(_can_open(call.operation, closed) for call in flat.calls):
            break
        tensor = keras.Input(model.inputs[0].shape[1:], dtype="float32", name="frames")
        values: dict[Edge, Any] = {flat.inputs[0]: tensor}
        replay(flat.calls, values, lambda call, args, kwargs: _apply(call.operation, args, kwargs, closed))
        answers = keras.tree.pack_sequence_as(model.output, [values[edge] for edge in flat.outputs])
        model = keras.Model(tensor, uniquely_named(answers), name=model.name)
    return model


def _can_open(operation: Any, closed: dict[int, Any]) -> bool:
    if id(operation) in closed:
        return False
    if isinstance(operation, layers.TimeDistributed):
        return functional(operation.layer) is not operation.layer and openable_within(operation.layer)
    return openable(operation) or (type(operation).__name__ == "Reshape" and None in getattr(operation, "newshape", ()))


def _apply(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], closed: dict[int, Any]) -> Any:
    if not _can_open(operation, closed):
        return operation(*args, **kwargs)
    if not isinstance(operation, keras.Layer):
        known = batch_first(args[0].shape, operation.newshape)
        closed[id(operation)] = operation
        return operation(*args, **kwargs) if known is None else ops.reshape(args[0], known)
    try:
        if isinstance(operation, layers.TimeDistributed):
            inner = _within(operation.layer, args[0].shape[2:])
            return layers.TimeDistributed(inner, name=operation.name)(args[0])
        return open_layer(operation, args, kwargs)
    except Exception:  # noqa: BLE001 -- whatever the user's code raises: such a layer stays whole, and tf2onnx has a try
        closed[id(operation)] = operation
        return operation(*args, **kwargs)


def _within(layer: Any, shape: tuple[int | None, ...]) -> keras.Model:
    """The functional model of what a TimeDistributed wraps, on frames of `shape`."""
    frame = keras.Input(shape, dtype="float32")
    answers = layer(frame) if functional(layer) is not None else open_layer(layer, (frame,), {})
    return opened(keras.Model(frame, uniquely_named(answers), name=layer.name))


def openable(operation: Any) -> bool:
    """Whether it is a layer with a `call` of the user's own, not one of Keras's or ours."""
    if isinstance(operation, layers.Lambda):
        return True
    if not isinstance(operation, keras.Layer) or functional(operation) is not None:
        return False
    owner = next(kind for kind in type(operation).__mro__ if "call" in vars(kind))
    return owner.__module__.split(".")[0] not in _LIBRARIES


def openable_within(layer: Any) -> bool:
    graph = functional(layer)
    if graph is None:
        inner = layer.layer if isinstance(layer, layers.TimeDistributed) else layer
        return openable(inner) if inner is layer else openable_within(inner)
    return any(openable_within(call.operation) for call in trace(layer).calls)


def uniquely_named(answers: Any) -> Any:
    """`answers`, after the layers on the way to them were renamed where two are called alike, which no functional model may hold."""
    seen: dict[str, Any] = {}
    visited: set[int] = set()
    waiting = [tensor for tensor in keras.tree.flatten(answers) if isinstance(tensor, keras.KerasTensor)]
    while waiting:
        operation, place, _ = waiting.pop()._keras_history  # noqa: SLF001 -- Keras has no public way back from a tensor
        node = operation._inbound_nodes[place]  # noqa: SLF001
        if id(node) in visited:
            continue
        visited.add(id(node))
        waiting.extend(node.input_tensors)
        number, name = 1, operation.name
        while seen.setdefault(operation.name, operation) is not operation:
            number += 1
            operation.name = f"{name}_{number}"
    return answers
