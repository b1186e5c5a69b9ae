"""Does an exported graph become a TensorRT engine? The server's own code builds it; TensorRT-RTX does so without a GPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from models.errors import ExportRefused
from service.engine.build import Profile, build_plan
from service.engine.flavour import load_flavour
from service.engine.fp16 import to_fp16
from service.errors import EngineError

# The smallest, usual and largest size of a dynamic axis.
_PROFILE = (1, 16, 64)
# How TensorRT-RTX writes down, in the plan, its tensors and the products of more than two dimensions.
_TENSOR = re.compile(rb'^ *(?:sub_)?tensor=\{.* name="([^"]+)".* type=(\w+) \}', re.MULTILINE)
_PRODUCT = re.compile(rb'^ *corrltn=\{ name="([^"]+?)(?: \[profile \d+\])?" .*? input=\{"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Gate:
    """A graph that was built: layers before fusion, the bytes of the plan, the convolutions that compute in INT8 there."""

    layers: int
    plan_bytes: int
    int8: frozenset[str] = frozenset()


def build_gate(
    model: onnx.ModelProto | bytes,
    *,
    profile: Sequence[int] = _PROFILE,
    profiles: Sequence[Profile] | None = None,
    half: bool = False,
) -> Gate:
    """Build `model` as the server would on a GPU, every dynamic axis from profile[0] to profile[2], or under `profiles`.

    `half`: cast as for --precision fp16, and for INT8 with the rest in half. The plan is for no GPU, and never kept. Raises
    ExportRefused with the reason, also where TensorRT-RTX computes a quantized convolution in float, which it does silently.
    """
    data = model if isinstance(model, bytes) else model.SerializeToString()
    graph = onnx.load_from_string(data).graph
    try:
        flavour = load_flavour()
        plan = build_plan(
            to_fp16(data) if half else data, flavour=flavour, profiles=profiles or (_stretched(graph, profile),)
        )
    except EngineError as error:
        raise ExportRefused(error.detail) from error
    int8 = _int8(plan.data)
    lost = sorted(_quantized(graph) - int8)
    if flavour.rtx and lost:
        raise ExportRefused(
            f"{flavour} would run {len(lost)} quantized convolutions in float, such as {lost[0]!r}; its Q/DQ is not placed "
            "as TensorRT wants it: quantize it again with marey-build, and report this"
        )
    return Gate(plan.layers, len(plan.data), int8)


def _stretched(graph: onnx.GraphProto, sizes: Sequence[int]) -> Profile:
    """One profile, in which every dynamic axis of every input goes through `sizes`."""
    shapes = {
        value.name: [
            axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim
        ]
        for value in graph.input
    }
    small, usual, large = (
        {name: tuple(size if axis is None else axis for axis in axes) for name, axes in shapes.items()}
        for size in sizes
    )
    return {name: (small[name], usual[name], large[name]) for name in shapes}


def _quantized(graph: onnx.GraphProto) -> set[str]:
    """The convolutions whose frames and weights both pass Q/DQ."""
    back = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {node.name for node in graph.node if node.op_type == "Conv" and back.issuperset(node.input[:2])}


def _int8(plan: bytes) -> frozenset[str]:
    """The convolutions that read INT8, wherever in the plan of TensorRT-RTX they stand."""
    types = dict(_TENSOR.findall(plan))
    reads = [(name.decode(), types.get(source) == b"int8") for name, source in _PRODUCT.findall(plan)]
    return frozenset(name for name, _ in reads).difference(name for name, whole in reads if not whole)
