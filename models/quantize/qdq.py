"""Place Q/DQ around the convolutions and products of an encoder or a clip network, with ranges from calibration frames.

The recipe: symmetric int8, per-channel weights, biases in float32, no Q/DQ on outputs as such. Of the two inputs of a
residual Add only the skip passes Q/DQ, so that engines fuse the other's convolution with the Add.

# Note [Four channels]
On CPUs with AMX, OpenVINO 2026.4 gives wrong numbers for an INT8 convolution over space and time that pads the time of one single frame, where its
input channels are no multiple of 4 (probabilities off by 0.3 to 0.7; onnxruntime and longer clips are right). So colours get a fourth
channel of zeros, and the kernels as many weights: right again, INT8 in TensorRT-RTX, too, and 24 ms in place of 38 for two such layers at 112 × 112.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.errors import ExportRefused
from models.export.graphs.finish import finish
from models.export.half import widen
from models.export.report.cost import attribute, constants_of, layer_name
from models.export.report.eight_bits import NOTHING, int8_nodes
from models.quantize.legal import assert_legal
from models.quantize.observe import observe

_LEVELS = 127
_KINDS = ["Conv", "MatMul", "Gemm", "Add"]


def quantize_network(model: onnx.ModelProto, *, rows: NDArray[np.uint8], skip: Sequence[str] = ()) -> onnx.ModelProto:
    """`model`, whose weights may be stored in half precision, with Q/DQ on what `int8_nodes` names.

    `rows` give the ranges, as wide as what was seen: frames `[N, H, W, C]` for an encoder, clips `[N, T, H, W, C]` for a clip network.
    `skip` as in `chosen_nodes`. Raises ExportRefused where nothing would be INT8, or where the graph is not legal.
    """
    wide = widen(model)
    chosen = chosen_nodes(wide.graph, skip)
    found = observe(wide, rows, quantized_tensors(wide.graph, chosen))
    return place(wide, {name: each.largest for name, each in found.items()}, chosen)


def chosen_nodes(graph: onnx.GraphProto, skip: Sequence[str] = ()) -> tuple[str, ...]:
    """What `int8_nodes` names, but for `skip`: nodes by their name, their layer's name, or a pattern such as `block1*`.

    Raises ExportRefused for one that fits nothing, and where nothing is left.
    """
    eligible = int8_nodes(graph)
    if not eligible:
        raise ExportRefused(f"{NOTHING}; serve it in float")
    names = [node.name for node in graph.node]
    for wanted in skip:
        if not any(_fits(name, wanted) for name in names):
            raise ExportRefused(
                f"there is no node {wanted!r} to skip; nodes are named layer/Kind, such as {eligible[0]!r}, and patterns such as 'block1*' name several"
            )
    chosen = tuple(name for name in eligible if not any(_fits(name, wanted) for wanted in skip))
    if not chosen:
        raise ExportRefused(
            f"all {len(eligible)} nodes that could be INT8 are skipped; skip fewer, or serve the network in float"
        )
    return chosen


def quantized_tensors(graph: onnx.GraphProto, chosen: Iterable[str]) -> tuple[str, ...]:
    """The tensors that the nodes `chosen` read in 8 bits and that rows reach: those that need a range."""
    wanted, constants = set(chosen), constants_of(graph)
    read = (name for node in graph.node if node.name in wanted for name in node.input[:2])
    return tuple(dict.fromkeys(name for name in read if name not in constants))


def place(wide: onnx.ModelProto, thresholds: Mapping[str, float], chosen: Sequence[str]) -> onnx.ModelProto:
    """`wide`, whose weights are plain float32, with Q/DQ around the nodes `chosen`: levels from -127 to 127 reach ± the threshold of a tensor.

    Raises ExportRefused where the graph is not legal.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorData, TensorsData  # noqa: PLC0415 -- after the variable

    padded = onnx.ModelProto.FromString(wide.SerializeToString())
    sources = _four_channels(padded.graph, chosen)
    bounds = {name: np.float32(threshold) for name, threshold in thresholds.items()}
    bounds |= {name: bounds[source] for name, source in sources.items()}
    ranges = {name: TensorData(lowest=-bound, highest=bound) for name, bound in bounds.items()}
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(padded),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=list(chosen),
        nodes_to_exclude=[],
        op_types_to_quantize=_KINDS,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,  # else an INT32 DequantizeLinear, which TensorRT refuses
            "OpTypesToExcludeOutputQuantization": _KINDS,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    _free_floats(quantized.graph, int8=frozenset(chosen))
    _free_main_branches(quantized.graph)
    _prune(quantized.graph)
    del quantized.graph.value_info[:]
    plain = [(entry.domain, entry.version) for entry in quantized.opset_import if entry.domain in ("", "ai.onnx")]
    del quantized.opset_import[:]
    quantized.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in plain)
    assert_legal(finish(quantized))
    return quantized


def with_thresholds(quantized: onnx.ModelProto, thresholds: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of what `place` gave with other thresholds: nothing but the scales differs."""
    changed = onnx.ModelProto.FromString(quantized.SerializeToString())
    held = {tensor.name: tensor for tensor in changed.graph.initializer}
    padded = {node.output[0]: node.input[0] for node in changed.graph.node if node.op_type == "Pad"}
    for node in changed.graph.node:
        name = padded.get(node.input[0], node.input[0])
        if node.op_type == "QuantizeLinear" and thresholds.get(name, 0) > 0:
            scale = np.array(thresholds[name] / _LEVELS, np.float32)
            held[node.input[1]].CopyFrom(numpy_helper.from_array(scale, node.input[1]))
    return changed


def _four_channels(graph: onnx.GraphProto, chosen: Sequence[str]) -> dict[str, str]:
    """Pad the input channels of 3D convolutions to a multiple of 4, see Note [Four channels]; grouped ones are never chosen.

    Returns what was padded, by the name of the result.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    nodes, sources = [], dict[str, str]()
    for node in graph.node:
        kernel = weights.get(node.input[1]) if node.op_type == "Conv" and node.name in chosen else None
        if kernel is not None and len(kernel.dims) == 5 and kernel.dims[1] % 4 and not attribute(node, "group", 1) > 1:
            more = -kernel.dims[1] % 4
            padded = np.pad(numpy_helper.to_array(kernel), ((0, 0), (0, more), (0, 0), (0, 0), (0, 0)))
            layer = layer_name(node)
            graph.initializer.append(numpy_helper.from_array(padded, f"{node.name}/kernel"))
            ends = np.array([0] * 6 + [more, 0, 0, 0], np.int64)
            graph.initializer.append(numpy_helper.from_array(ends, f"{node.name}/ends"))
            source, target = node.input[0], f"{node.name}/padded"
            nodes.append(onnx.helper.make_node("Pad", [source, f"{node.name}/ends"], [target], name=f"{layer}/Pad"))
            if readers[kernel.name] == 1:
                graph.initializer.remove(kernel)
            node.input[:2] = [target, f"{node.name}/kernel"]
            sources[target] = source
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)
    return sources


def _fits(name: str, wanted: str) -> bool:
    return name == wanted or name.rpartition("/")[0] == wanted or fnmatchcase(name, wanted)


def _free_floats(graph: onnx.GraphProto, *, int8: frozenset[str]) -> None:
    """Let what stays float read float, where another node reads the same tensor in 8 bits: half a convolution is none."""
    made = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in _KINDS and node.name not in int8:
            node.input[:] = [_before_pair(name, made) for name in node.input]


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
