"""Calls of Keras layers as ONNX by way of TensorFlow and tf2onnx: for everything that it gives no loop."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import onnx
from keras import layers
from onnx import numpy_helper

from models.errors import ExportRefused
from models.export.graphs.finish import layer_of
from models.export.graphs.rewrite import not_converted, one_value_vectors
from models.export.model.reason import reason
from models.export.model.trace import Call, Edge, describe, replay
from models.export.nodes.graph import OPSET

# While this is set, to anything, tf2onnx does not copy the whole graph before each of its optimizers: a ResNet50 then takes
# a fraction of the memory, and an optimizer that fails is an error and not a slower graph.
_CATCH = "TF2ONNX_CATCH_ERRORS"
# Note [weights as inputs]
# tf2onnx copies every constant many times over: a network of 78 million weights took 12 GB and three minutes. Large kernels
# therefore enter the graph as inputs, and become its constants when it is done.
_LARGE = 2**16  # values
_KERNELS = (layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D, layers.Conv3D)


@dataclass(frozen=True, slots=True)
class Entry:
    """An input of the graph; bytes become float32 at once."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


def translate(
    calls: Sequence[Call], *, inputs: Mapping[Edge, Entry], outputs: Mapping[str, Edge], known: set[str]
) -> onnx.ModelProto:
    """The graph of `calls` from `inputs` to `outputs` by name, opset 18; raises ExportRefused where ONNX lacks an operation.

    The layers are used as they are, not copied. `known`: their names, for the error. Initializers and nodes keep TensorFlow's names.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf  # noqa: PLC0415 -- seconds to import
    import tf2onnx  # noqa: PLC0415

    edges, kernels = list(inputs), _large_kernels(calls)
    scopes: dict[str, str] = {}

    def apply(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        graph = tf.compat.v1.get_default_graph()
        before = len(graph.get_operations())
        results = _serve(call, args, kwargs)
        if call.is_layer:
            added = {operation.name.split("/")[0] for operation in graph.get_operations()[before:]}
            scopes.update((scope, call.operation.name) for scope in added)
        return results

    def run(*tensors: Any) -> dict[str, Any]:
        given, weights = tensors[: len(edges)], tensors[len(edges) :]
        values = {edge: tf.cast(tensor, edge.dtype) for edge, tensor in zip(edges, given, strict=True)}
        with keras.StatelessScope(list(zip(kernels.values(), weights, strict=True))):
            replay(calls, values, apply)
        return {name: values[edge] for name, edge in outputs.items()}

    signature = [tf.TensorSpec(entry.shape, entry.dtype, name=entry.name) for entry in inputs.values()]
    signature += [tf.TensorSpec(weight.shape, tf.float32, name=name) for name, weight in kernels.items()]
    function = tf.function(run, autograph=False)  # which would wrap every exception in one of its own
    before, eagerly = os.environ.get(_CATCH), tf.config.functions_run_eagerly()
    os.environ[_CATCH] = "FALSE"
    # Functions within ours, as of a grouped Conv2D, are then part of it and not calls.
    tf.config.run_functions_eagerly(run_eagerly=True)
    try:
        with tf.device("/CPU:0"):  # with a GPU in sight Keras picks cuDNN operations that have no ONNX form
            concrete = function.get_concrete_function(*signature)
            model, _ = tf2onnx.convert.from_function(
                function,
                input_signature=signature,
                opset=OPSET,
                custom_op_handlers={"Erfc": (_erfc, [])},
                custom_rewriter=[one_value_vectors],
            )
    except ExportRefused:
        raise
    except Exception as error:
        raise not_converted(error, known) from error
    finally:
        tf.config.run_functions_eagerly(run_eagerly=eagerly)
        os.environ.pop(_CATCH)
        if before is not None:
            os.environ[_CATCH] = before
    captured = zip(concrete.graph.internal_captures, concrete.captured_inputs, strict=True)
    constants = {name.name: value.numpy() for name, value in captured if value.dtype != tf.resource}
    constants |= {name: weight.numpy() for name, weight in kernels.items()}
    _fix_captured(model.graph, constants, given={entry.name for entry in inputs.values()})
    _turn_kernels(model.graph)
    # TensorFlow numbers its scopes: that of the first conv2d is conv2d_1, and so another layer.
    for node in model.graph.node:
        scope = node.name.split("/")[0]
        if scope in scopes:
            node.name = f"{scopes[scope]}/{node.name}"
    _refuse_unknown(model.graph, known)
    _pool_channels_first(model.graph)
    return model


def _serve(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply as in serving: layers that augment pictures take themselves to be training where they are not told otherwise."""
    if getattr(call.operation, "_call_has_training_arg", False):
        kwargs = {**kwargs, "training": False}
    try:
        return call.operation(*args, **kwargs)
    except Exception as error:
        raise ExportRefused(
            f"{describe(call.operation)} cannot be converted to ONNX ({reason(error)}); replace it with layers of keras.layers"
        ) from error


def _large_kernels(calls: Sequence[Call]) -> dict[str, Any]:
    """By the name of the input that each will be; see Note [weights as inputs]."""
    layers_ = dict.fromkeys(call.operation for call in calls if type(call.operation) in _KERNELS)
    found = [weight for layer in layers_ for weight in layer.weights if math.prod(weight.shape) >= _LARGE]
    return {f"kernel_{number}": weight for number, weight in enumerate(found)}


def _turn_kernels(graph: onnx.GraphProto) -> None:
    """Constants that a node of the graph transposes become constants that are."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in constants]:
        tensor = constants[node.input[0]]
        array = np.transpose(numpy_helper.to_array(tensor), _attribute(node, "perm"))
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), node.output[0]))
        graph.node.remove(node)
        if not any(tensor.name in other.input for other in graph.node):
            graph.initializer.remove(tensor)


def _fix_captured(graph: onnx.GraphProto, values: dict[str, Any], *, given: set[str]) -> None:
    """What a layer computed when it was built, as Normalization its mean, comes as a further input: make it a constant."""
    for value in [value for value in graph.input if value.name not in given]:
        if value.name not in values:
            raise ExportRefused(f"the model reads {value.name!r} beside its frames; store it as a weight of its layer")
        graph.initializer.append(numpy_helper.from_array(values[value.name], value.name))
        graph.input.remove(value)


def _erfc(graph: Any, node: Any, _name: str, _arguments: list[Any]) -> None:
    """TensorFlow computes GELU with erfc, which tf2onnx does not know: 1 − erf."""
    source, target = node.input[0], node.output[0]
    shape, dtype = graph.get_shape(target), graph.get_dtype(target)
    graph.remove_node(node.name)
    one = graph.make_const(f"{node.name}_one", np.ones(1, np.float32))
    erf = graph.make_node("Erf", [source], name=f"{node.name}_erf", shapes=[shape], dtypes=[dtype])
    graph.make_node(
        "Sub", [one.output[0], erf.output[0]], outputs=[target], name=node.name, shapes=[shape], dtypes=[dtype]
    )


def _pool_channels_first(graph: onnx.GraphProto) -> None:
    """Transpose back to NHWC and average over H, W: average over the axes where H, W are now instead."""
    made = {output: node for node in graph.node for output in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type in ("ReduceMean", "ReduceMax")]:
        turn = made.get(node.input[0])
        if (
            turn is None
            or turn.op_type != "Transpose"
            or list(turn.attribute[0].ints) != [0, 2, 3, 1]
            or readers[turn.output[0]] > 1
        ):
            continue
        axes = (
            numpy_helper.to_array(constants[node.input[1]]).tolist()
            if len(node.input) > 1
            else _attribute(node, "axes")
        )
        keep = (_attribute(node, "keepdims") or [1])[0]
        if sorted(axis % 4 for axis in axes) != [1, 2] or keep:
            continue
        if len(node.input) > 1:
            tensor = numpy_helper.from_array(
                numpy_helper.to_array(constants[node.input[1]]) * 0 + [2, 3], f"{node.name}/axes"
            )
            graph.initializer.append(tensor)
            node.input[1] = tensor.name
        else:
            next(part for part in node.attribute if part.name == "axes").ints[:] = [2, 3]
        node.input[0] = turn.input[0]
        graph.node.remove(turn)


def _attribute(node: onnx.NodeProto, name: str) -> list[int]:
    for part in node.attribute:
        if part.name == name:
            return list(part.ints) or [part.i]
    return []


def _refuse_unknown(graph: onnx.GraphProto, known: set[str]) -> None:
    """What tf2onnx could not translate it passes on under TensorFlow's name."""
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            layer = layer_of(node, known) or node.name
            raise ExportRefused(
                f"layer {layer!r} needs {node.op_type}, which ONNX does not have; replace it with another layer"
            )
