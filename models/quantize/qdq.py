"""Place Q/DQ around the convolutions and products of an encoder, with ranges from calibration frames.

The recipe: symmetric int8, per-channel weights, MinMax ranges, biases in float32, no Q/DQ on outputs as such. Of the two
inputs of a residual Add only the skip passes Q/DQ, so that engines fuse the other's convolution with the Add.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.export.graph import finish
from models.export.half import widen
from models.quantize.legal import assert_legal

METHOD = "MinMax"
_KINDS = ["Conv", "MatMul", "Gemm", "Add"]
_BATCH = 8  # frames at a time; the ranges do not depend on it


class _Frames:
    """What onnxruntime's calibrator asks for: one batch after another, and None at the end."""

    def __init__(self, frames: NDArray[np.uint8], name: str) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = (
            frames[start : start + _BATCH] for start in range(0, len(frames), _BATCH)
        )
        self._name = name

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: np.ascontiguousarray(batch)}


def quantize_encoder(
    model: onnx.ModelProto, *, frames: NDArray[np.uint8], skip: Collection[str] = ()
) -> onnx.ModelProto:
    """`model`, whose weights may be stored in half precision, with Q/DQ; `frames` `[N, H, W, C]` give the ranges.

    `skip`: names of nodes that stay float. Raises ExportRefused for a name that is none, or a graph that is not legal.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static  # noqa: PLC0415 -- after the variable

    wide = widen(model)
    names = {node.name for node in wide.graph.node}
    unknown = sorted(set(skip) - names)
    if unknown:
        raise ExportRefused(
            f"there is no node {unknown[0]!r} to skip; nodes are named layer/Kind, such as {next(node.name for node in wide.graph.node if node.op_type in _KINDS)!r}"
        )
    with tempfile.TemporaryDirectory(prefix="marey-int8-") as folder:
        target = Path(folder) / "encoder.onnx"
        wide.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")  # folded already: no warning
        quantize_static(
            _with_shapes(wide),
            target,
            _Frames(frames, wide.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_KINDS,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*skip, *_constant_adds(wide.graph)],
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,  # else an INT32 DequantizeLinear, which TensorRT refuses
                "OpTypesToExcludeOutputQuantization": _KINDS,
            },
        )
        quantized = onnx.load(target)
    _free_main_branches(quantized.graph)
    _prune(quantized.graph)
    del quantized.graph.value_info[:]
    plain = [(entry.domain, entry.version) for entry in quantized.opset_import if entry.domain in ("", "ai.onnx")]
    del quantized.opset_import[:]
    quantized.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in plain)
    assert_legal(finish(quantized))
    return quantized


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model)


def _constant_adds(graph: onnx.GraphProto) -> list[str]:
    """Additions of a constant: a bias or a normalisation, where int8 would only cost accuracy."""
    constants = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "Add" and constants.intersection(node.input)]


def _free_main_branches(graph: onnx.GraphProto) -> None:
    """Let the later of an Add's two convolutions reach it without Q/DQ: the two then run as one."""
    made = {output: node for node in graph.node for output in node.output}
    order = {node.name: place for place, node in enumerate(graph.node)}
    for add in (node for node in graph.node if node.op_type == "Add"):
        sources = [_before_pair(name, made) for name in add.input]
        convolutions = [
            (order[made[name].name], place)
            for place, name in enumerate(sources)
            if name in made and made[name].op_type == "Conv"
        ]
        if convolutions and all(source != name for source, name in zip(sources, add.input, strict=True)):
            place = max(convolutions)[1]
            add.input[place] = sources[place]


def _before_pair(name: str, made: dict[str, onnx.NodeProto]) -> str:
    """The tensor that passes Q and DQ to become `name`, or `name` itself."""
    back = made.get(name)
    if back is None or back.op_type != "DequantizeLinear":
        return name
    forth = made.get(back.input[0])
    return forth.input[0] if forth is not None and forth.op_type == "QuantizeLinear" else name


def _prune(graph: onnx.GraphProto) -> None:
    """Drop nodes and initializers that nothing reads any more."""
    outputs = {value.name for value in graph.output}
    while True:
        read = outputs.union(name for node in graph.node for name in node.input)
        dead = [node for node in graph.node if read.isdisjoint(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    kept = [
        onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in graph.initializer if tensor.name in read
    ]
    del graph.initializer[:]
    graph.initializer.extend(sorted(kept, key=lambda tensor: tensor.name))


def sizes(model: onnx.ModelProto) -> dict[str, Any]:
    """Bytes of the convolutions' and products' weights, biases, scales and zero-points, against 4 for each weight in float32."""
    graph = widen(model).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made = {output: node for node in graph.node for output in node.output}
    stored = as_float = 0
    for node in (node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")):
        for name in node.input:
            back = made.get(name)
            parts = (
                list(back.input)
                if back is not None and back.op_type == "DequantizeLinear" and back.input[0] in constants
                else [name]
            )
            tensors = [constants[part] for part in parts if part in constants]
            stored += sum(_bytes(tensor) for tensor in tensors)
            as_float += 4 * int(np.prod(tensors[0].dims)) if tensors else 0
    return {"bytes": stored, "fp32_bytes": as_float, "ratio": round(stored / max(as_float, 1), 4)}


def _bytes(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims)) * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
