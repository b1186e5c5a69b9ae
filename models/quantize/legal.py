"""Is a quantized graph one that every engine runs as it is meant? TensorRT takes some wrong ones silently, so we ask ourselves."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.errors import ExportRefused
from models.quantize.placement import assert_placed

_PAIR = {"QuantizeLinear", "DequantizeLinear"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
# Kinds with integers inside instead of Q/DQ around: no GPU engine reads them.
_OPAQUE = {
    "QLinearConv",
    "QLinearMatMul",
    "QLinearAdd",
    "QGemm",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
}
# Kinds that only move values about; a Q/DQ on their far side is still one on the recurrent part.
_MOVES = {
    "Transpose",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Identity",
    "Cast",
    "Slice",
    "Concat",
    "Split",
    "Gather",
}


def assert_legal(model: onnx.ModelProto) -> int:
    """Raise ExportRefused unless every Q/DQ is int8 with zero-point 0 and a positive scale, none touches a recurrent node, and
    all stand where engines can use them (`assert_placed`).

    Returns the number of QuantizeLinear and DequantizeLinear nodes, which is above 0.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in _PAIR]
    for node in graph.node:
        if node.op_type in _OPAQUE:
            raise ExportRefused(
                f"{node.name!r} is {node.op_type}; only explicit QuantizeLinear and DequantizeLinear run on every engine"
            )
    if not pairs:
        raise ExportRefused(
            "the graph holds no QuantizeLinear or DequantizeLinear: nothing in it is INT8; quantize it again with fewer nodes skipped"
        )
    for node in pairs:
        _check_pair(node, constants)
    _check_recurrent(graph)
    assert_placed(graph)
    return len(pairs)


def _check_pair(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    where = f"{node.op_type} {node.name!r}"
    scale, zero = ([*node.input[1:3], ""])[:2]
    if scale not in constants:
        raise ExportRefused(
            f"{where} has no constant scale; calibrate on real frames and store the scales in the graph"
        )
    values: NDArray[np.float64] = numpy_helper.to_array(constants[scale]).astype(np.float64)
    if constants[scale].data_type != onnx.TensorProto.FLOAT or not (np.isfinite(values).all() and (values > 0).all()):
        raise ExportRefused(
            f"{where} has scale {values.min():g}, expected finite float32 above 0; calibrate on frames that are not all alike"
        )
    source = constants.get(node.input[0])
    if node.op_type == "DequantizeLinear" and source is not None and source.data_type != onnx.TensorProto.INT8:
        kind = onnx.TensorProto.DataType.Name(source.data_type)
        raise ExportRefused(
            f"{where} reads {kind} weights; TensorRT takes INT8 only: keep biases in float32 (QuantizeBias=False)"
        )
    if zero not in constants or constants[zero].data_type != onnx.TensorProto.INT8:
        kind = onnx.TensorProto.DataType.Name(constants[zero].data_type) if zero in constants else "no constant"
        raise ExportRefused(
            f"{where} has a zero-point of {kind}, expected INT8: without one it means UINT8, which TensorRT reads with wrong ranges"
        )
    if numpy_helper.to_array(constants[zero]).any():
        raise ExportRefused(
            f"{where} has zero-point {numpy_helper.to_array(constants[zero]).max()}, TensorRT takes 0 only; quantize symmetrically"
        )


def _check_recurrent(graph: onnx.GraphProto) -> None:
    made = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in (node for node in graph.node if node.op_type in _RECURRENT):
        before = _reach(node.input, lambda name: [made[name]] if name in made else [], lambda other: other.input)
        after = _reach(node.output, lambda name: readers.get(name, []), lambda other: other.output)
        if before or after:
            raise ExportRefused(
                f"{(before or after)!r} quantizes what {node.op_type} {node.name!r} reads or gives; keep the recurrent part in float"
            )


def _reach(names: Iterable[str], neighbours: object, onward: object) -> str:
    """The name of the first Q/DQ that is reached over nodes that only move values, or nothing."""
    assert callable(neighbours)
    assert callable(onward)
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        for node in neighbours(name) if name not in seen else []:
            if node.op_type in _PAIR:
                return str(node.name)
            if node.op_type in _MOVES:
                waiting.extend(onward(node))
        seen.add(name)
    return ""
