"""Weights stored as float16 with a Cast behind them: half the bytes, the same outputs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

_SUFFIX = "/half"
_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose float32 kernels are float16 wherever float16 holds their very values; the others stay."""
    halved = onnx.ModelProto.FromString(model.SerializeToString())
    graph, casts = halved.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != _FLOAT or len(tensor.dims) < 2:
            continue
        array = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if np.array_equal(half.astype(np.float32), array):
            casts.append(
                helper.make_node("Cast", [tensor.name + _SUFFIX], [tensor.name], name=f"{tensor.name}/Cast", to=_FLOAT)
            )
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name + _SUFFIX))
    nodes = [*casts, *(onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
    return halved


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """The reverse of `halve`: a copy of `model` with plain float32 initializers, as the quantizer wants them."""
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    graph = wide.graph
    halves = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == _HALF}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in halves]:
        tensor = halves[node.input[0]]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), node.output[0]))
        graph.node.remove(node)
    return wide
