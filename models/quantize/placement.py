"""Do Q/DQ stand where engines fuse across them? A pair in the wrong place is valid, gives nearly the same answers, and costs the speed."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from models.errors import ExportRefused

# What engines fuse into the convolution, or the residual sum, before it.
_ACTIVATIONS = {
    "BatchNormalization", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu",
    "Sigmoid", "Softplus", "Tanh",
}  # fmt: skip
_MOVES = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Cast"}


def assert_placed(graph: onnx.GraphProto) -> None:
    """Raise ExportRefused where Q/DQ stand alone, on an output, half around a convolution, or inside what engines fuse."""
    _Placement(graph).check()


class _Placement:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._made = {output: node for node in graph.node for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def check(self) -> None:
        for node in self._graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                self._check_pair(node)
            elif node.op_type == "Conv":
                self._check_convolution(node)
            elif node.op_type == "Add":
                self._check_residual(node)
        for value in self._graph.output:
            self._check_output(value.name)

    def _check_pair(self, node: onnx.NodeProto) -> None:
        readers = self._readers.get(node.output[0], [])
        if node.op_type == "DequantizeLinear":
            source = self._made.get(node.input[0])
            if node.input[0] not in self._constants and (source is None or source.op_type != "QuantizeLinear"):
                raise ExportRefused(
                    f"DequantizeLinear {node.name!r} reads what no QuantizeLinear made; give it its pair"
                )
            return
        if not readers or any(reader.op_type != "DequantizeLinear" for reader in readers):
            found = next((reader.name for reader in readers if reader.op_type != "DequantizeLinear"), None)
            told = f"is read by {found!r}" if found else "is read by nothing"
            raise ExportRefused(f"QuantizeLinear {node.name!r} {told}; a DequantizeLinear must follow it")
        if self._constants[node.input[1]].dims:
            raise ExportRefused(
                f"QuantizeLinear {node.name!r} has a scale of shape {list(self._constants[node.input[1]].dims)}, expected a "
                "scalar: with any other TensorRT computes in float what reads it; reshape scale and zero-point to []"
            )
        for reader in readers:
            if not self._same(node.input[1], reader.input[1]):
                raise ExportRefused(
                    f"QuantizeLinear {node.name!r} and DequantizeLinear {reader.name!r} have different scales; a pair shares one"
                )
        self._check_fused(node, readers)

    def _check_fused(self, quantize: onnx.NodeProto, readers: list[onnx.NodeProto]) -> None:
        """No pair between a convolution, or a sum, and the activation that alone reads it: they run as one."""
        before = self._made.get(quantize.input[0])
        if before is None or before.op_type not in ("Conv", "Add"):
            return
        after = [node for reader in readers for node in self._readers.get(reader.output[0], [])]
        gates = {node.output[0] for node in after if node.op_type in _ACTIVATIONS}
        # The product of a tensor and a function of itself is an activation, too: swish, hard-swish.
        if after and all(
            node.output[0] in gates or self._scales(node) or gates.intersection(node.input) for node in after
        ):
            raise ExportRefused(
                f"Q/DQ {quantize.name!r} stand between {before.op_type} {before.name!r} and {after[0].op_type} "
                f"{after[0].name!r}, which engines run as one; quantize behind {after[0].name!r}"
            )

    def _check_convolution(self, node: onnx.NodeProto) -> None:
        frames, weights = (self._back(name) for name in node.input[:2])
        if frames is None and weights is None:
            return
        if frames is None or weights is None:
            what = "frames" if frames is None else "weights"
            raise ExportRefused(
                f"Conv {node.name!r} has Q/DQ on one side only, its {what} are float, and so it runs in float; quantize both or neither"
            )
        scale = self._constants[weights.input[1]]
        axis = next((part.i for part in weights.attribute if part.name == "axis"), 1)
        channels = self._constants[weights.input[0]].dims[0] if weights.input[0] in self._constants else 0
        if list(scale.dims) != [channels] or axis != 0:
            raise ExportRefused(
                f"the weights of Conv {node.name!r} have scales of shape {list(scale.dims)} on axis {axis}, expected [{channels}] on "
                "axis 0, one for each output channel; quantize with per_channel=True"
            )

    def _check_residual(self, node: onnx.NodeProto) -> None:
        """Of a sum with a convolution, the convolution must reach it as it is: the other input is the skip."""
        backs = [self._back(name) for name in node.input]
        if any(back is None for back in backs):
            return
        for source in self._sources(backs):
            if source.op_type == "Conv":
                raise ExportRefused(
                    f"Conv {source.name!r} reaches the sum {node.name!r} through Q/DQ, as the other input does, and cannot be fused "
                    "with it; only the skip may pass Q/DQ"
                )

    def _sources(self, backs: list[onnx.NodeProto | None]) -> Iterator[onnx.NodeProto]:
        """What was quantized, for each DequantizeLinear."""
        for back in backs:
            forth = self._made.get(back.input[0]) if back is not None else None
            if forth is not None and forth.input[0] in self._made:
                yield self._made[forth.input[0]]

    def _check_output(self, name: str) -> None:
        node = self._made.get(name)
        while node is not None and node.op_type in _MOVES:
            node = self._made.get(node.input[0])
        if node is not None and node.op_type == "DequantizeLinear":
            raise ExportRefused(
                f"output {name!r} passes Q/DQ {node.name!r}: it would be rounded to 8 bits for no gain; take the pair out"
            )

    def _back(self, name: str) -> onnx.NodeProto | None:
        node = self._made.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def _scales(self, node: onnx.NodeProto) -> bool:
        """A bias, or one half of a BatchNorm."""
        return node.op_type in ("Add", "Sub", "Mul", "Div") and any(
            name in self._constants or self._weights(name) for name in node.input
        )

    def _weights(self, name: str) -> bool:
        back = self._back(name)
        return back is not None and back.input[0] in self._constants

    def _same(self, one: str, other: str) -> bool:
        first, second = (numpy_helper.to_array(self._constants[name]) for name in (one, other))
        return one == other or (first.shape == second.shape and bool((first == second).all()))
