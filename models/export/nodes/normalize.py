"""ONNX nodes of normalisations over features, groups and time, as layers and as operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from models.export.nodes.graph import Given, Graph, Value, Written, refuse, writes
from models.export.nodes.shape import reduced


def _mean_and_centred(graph: Graph, x: Value, axes: Sequence[int]) -> tuple[Value, Value]:
    mean = reduced(graph, x, "ReduceMean", list(axes), keep=True)
    return mean, graph.add("Sub", [x, mean], x.shape)


def _mean_square(graph: Graph, x: Value, axes: Sequence[int], *, keep: bool = True) -> Value:
    return reduced(graph, graph.add("Mul", [x, x], x.shape), "ReduceMean", list(axes), keep=keep)


def _over_root(graph: Graph, x: Value, square: Value, epsilon: float) -> Value:
    """X / √(square + epsilon)."""
    moved = graph.add("Add", [square, graph.constant(epsilon, "epsilon")], square.shape)
    return graph.add("Div", [x, graph.add("Sqrt", [moved], square.shape)], x.shape)


def _scaled(graph: Graph, x: Value, gamma: Any | None, beta: Any | None, axes: Sequence[int]) -> Value:
    """x·gamma + beta, whose axes are `axes` of x."""
    for kind, array, name in (("Mul", gamma, "gamma"), ("Add", beta, "beta")):
        if array is not None:
            sizes = [1] * x.rank
            for axis, size in zip(sorted(axes), np.asarray(array).shape, strict=True):
                sizes[axis] = size
            x = graph.add(kind, [x, graph.constant(np.asarray(array).reshape(sizes), name)], x.shape)
    return x


def _layer_norm(
    graph: Graph, x: Value, gamma: Any | None, beta: Any | None, *, axis: Any, epsilon: float, rms: bool
) -> Value:
    axes = [part % x.rank for part in (axis if isinstance(axis, (list, tuple)) else [axis])]
    if axes == [x.rank - 1] and not rms:
        scale = graph.constant(np.ones(x.width) if gamma is None else np.asarray(gamma), "gamma")
        shift = graph.constant(np.zeros(x.width) if beta is None else np.asarray(beta), "beta")
        return graph.add("LayerNormalization", [x, scale, shift], x.shape, axis=-1, epsilon=float(epsilon))
    _, centred = _mean_and_centred(graph, x, axes)
    square = _mean_square(graph, centred, axes)
    return _scaled(graph, _over_root(graph, x if rms else centred, square, epsilon), gamma, None if rms else beta, axes)


@writes(layers.LayerNormalization)
def _layernorm(graph: Graph, layer: Any, given: Given) -> Value:
    return _layer_norm(graph, given["inputs"], layer.gamma, layer.beta, axis=layer.axis, epsilon=layer.epsilon,
                       rms=layer.rms_scaling)  # fmt: skip


@writes("LayerNorm")
def _layernorm_operation(graph: Graph, operation: Any, given: Given) -> Value:
    gamma, beta = (_constant(operation, given.get(name)) for name in ("gamma", "beta"))
    epsilon = keras.config.epsilon() if operation.epsilon is None else operation.epsilon
    return _layer_norm(graph, given["x"], gamma, beta, axis=operation.axis, epsilon=epsilon, rms=operation.rms_scaling)


def _rms_norm(graph: Graph, x: Value, scale: Any | None, *, axis: Any, epsilon: float) -> Value:
    axes = [part % x.rank for part in (axis if isinstance(axis, (list, tuple)) else [axis])]
    return _scaled(graph, _over_root(graph, x, _mean_square(graph, x, axes), epsilon), scale, None, axes)


@writes(layers.RMSNormalization)
def _rms(graph: Graph, layer: Any, given: Given) -> Value:
    return _rms_norm(graph, given["x"], layer.scale, axis=layer.axis, epsilon=layer.epsilon)


@writes("RMSNorm")
def _rms_operation(graph: Graph, operation: Any, given: Given) -> Value:
    epsilon = keras.config.epsilon() if operation.epsilon is None else operation.epsilon
    return _rms_norm(graph, given["x"], _constant(operation, given.get("scale")), axis=operation.axis, epsilon=epsilon)


@writes(layers.GroupNormalization)
def _group(graph: Graph, layer: Any, given: Given) -> Value:
    """Over time and the features of a group together, for each clip."""
    x: Value = given["inputs"]
    if x.rank != 3 or layer.axis % x.rank != 2:
        raise refuse(layer, f"axis = {layer.axis} on rank {x.rank}", "normalise the last axis of [B, T, D]")
    groups = x.width if layer.groups == -1 else int(layer.groups)
    size = x.width // groups
    apart = graph.add("Reshape", [x, graph.integers([0, 0, groups, size], "groups")], (None, x.shape[1], groups, size))
    _, centred = _mean_and_centred(graph, apart, [1, 3])
    even = _over_root(graph, centred, _mean_square(graph, centred, [1, 3]), float(layer.epsilon))
    joined = graph.add("Reshape", [even, graph.integers([0, 0, x.width], "joined")], x.shape)
    return _scaled(graph, joined, layer.gamma if layer.scale else None, layer.beta if layer.center else None, [2])


def _unit(graph: Graph, x: Value, axis: Any, epsilon: float) -> Value:
    """X / max(|x|, epsilon)."""
    axes = list(axis) if isinstance(axis, (list, tuple)) else [axis]
    square = reduced(graph, graph.add("Mul", [x, x], x.shape), "ReduceSum", axes, keep=True)
    length = graph.add("Sqrt", [square], square.shape)
    return graph.add("Div", [x, graph.add("Max", [length, graph.constant(epsilon, "epsilon")], length.shape)], x.shape)


@writes(layers.UnitNormalization)
def _unit_layer(graph: Graph, layer: Any, given: Given) -> Value:
    return _unit(graph, given["inputs"], layer.axis, 1e-12)


@writes("Normalize")
def _unit_operation(graph: Graph, operation: Any, given: Given) -> Value:
    if operation.order != 2:
        raise refuse(operation, f"order = {operation.order}", "use order 2")
    epsilon = keras.config.epsilon() if operation.epsilon is None else operation.epsilon
    return _unit(graph, given["x"], operation.axis, epsilon)


@writes("Var", "Std")
def _variance(graph: Graph, operation: Any, given: Given) -> Value:
    x: Value = given["x"]
    if operation.axis is None:
        raise refuse(operation, "axis = None", "name the axes: clips of one batch must not meet")
    axes = [operation.axis] if isinstance(operation.axis, int) else list(operation.axis)
    _, centred = _mean_and_centred(graph, x, axes)
    square = _mean_square(graph, centred, axes, keep=operation.keepdims)
    return square if type(operation).__name__ == "Var" else graph.add("Sqrt", [square], square.shape)


@writes(layers.SpectralNormalization)
def _spectral(graph: Graph, layer: Any, given: Given) -> Written:
    """Once the model is trained its layer computes with the kernel as it stands."""
    return graph.call(layer.layer, (given["inputs"],), {})


def _constant(operation: Any, part: Any) -> Any | None:
    if isinstance(part, Value):
        raise refuse(operation, "a scale or shift that is computed", "use a weight or an array")
    return None if part is None else np.asarray(part)
