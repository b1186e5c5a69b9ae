"""Where 8 bits will hurt, as far as a float graph shows it before anything is calibrated.

# Note [A depthwise layer's ranges]
The tensor behind a convolution has one scale, so channels with small kernels get few of its 256 levels. Measured on EfficientNet-Lite0 and
300 ImageNet photos, with the ranges of each depthwise layer spread apart and the next layer's kernels by as much the other way: as trained,
the largest range is 3 to 17 times the median one, and INT8 names the class of float for 96 % of the photos; at 9 to 25 times 91 %, at 15
to 60 times 45 %, above that for none. Channels that died (14 of 16 layers, all zeros) cost nothing: each has a scale of its own.

# Note [Swish and its like]
They have no upper bound, and a negative lobe of 0.28 that gets a level or two of a wide range. EfficientNet-Lite0 fell from 75 to 46 % on
ImageNet when quantized with swish, its last tensor reaching from -168 to 204, and lost little with ReLU6 (TensorFlow's blog, March 2020,
"Higher accuracy on vision models with EfficientNet-Lite", where squeeze-and-excite was taken out, too).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from models.export.half import widen
from models.export.report.cost import attribute, layer_name
from models.export.report.eight_bits import int8_nodes

Kind = Literal["depthwise", "self-gated activation", "squeeze and excite", "computed normalisation", "attention"]
# See Note [A depthwise layer's ranges].
WIDE = 20.0
_POOLS = {"ReduceMean", "GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "AveragePool"}
_SQUASHES = {
    "Sigmoid": "swish",
    "HardSigmoid": "hard swish",
    "Clip": "hard swish",
    "Min": "hard swish",
    "Erf": "GELU",
    "Tanh": "GELU or Mish",
}
_GATED = {"HardSwish": "hard swish", "Gelu": "GELU", "Mish": "Mish", "Swish": "swish"}
_NORMALISATIONS = {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"}
# So far back a gate, or the mean of a normalisation, is looked for.
_DEPTH = 14


@dataclass(frozen=True, slots=True)
class Risk:
    """One kind of trouble: the layers that have it, the nodes to skip so that it stays float, what was found, what to do."""

    kind: Kind
    layers: tuple[str, ...]
    skip: tuple[str, ...]
    finding: str
    remedy: str


def quantization_risks(model: onnx.ModelProto) -> list[Risk]:
    """What in a float encoder or clip network is known to suffer from INT8, each kind once with all layers that have it."""
    return [risk for risk in _Search(model).risks() if risk.layers]


class _Search:
    def __init__(self, model: onnx.ModelProto) -> None:
        wide = widen(model)
        self._graph = wide.graph
        self._quantized = set(int8_nodes(wide.graph))
        self._constants = {tensor.name: tensor for tensor in wide.graph.initializer}
        self._made = {output: node for node in wide.graph.node for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in wide.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def risks(self) -> Iterator[Risk]:
        yield self._depthwise()
        gated, excited, gates, names = self._products()
        yield self._risk(
            "self-gated activation",
            gated,
            f"{' and '.join(sorted(names))}: no upper bound, and a small negative part that a wide range rounds away",
            "Marey measures the range behind each on real frames (the last line here); where they are wide, train with ReLU6 in its place, or keep the layers behind it in float",
        )
        yield self._risk(
            "squeeze and excite",
            excited,
            "a gate for each channel, computed from its mean over the picture: an error there scales the whole channel",
            "Marey quantizes the gate's layers like all others; keep them in float, which costs next to no time, or train without",
            skip=gates,
        )
        yield self._risk(
            "computed normalisation",
            self._normalisations(),
            "the statistics are computed from each frame anew, and amplify the rounding of what they are computed from",
            "Marey leaves the normalisation itself in float and quantizes the products behind it; where agreement is low, keep those in float",
        )
        yield self._risk(
            "attention",
            [node for node in self._graph.node if node.op_type == "MatMul" and not self._constant(node)],
            "what attention reads and weighs has few channels and positions far above the others, and one scale for all",
            "Marey keeps products of two activations in float and quantizes those with weights; where agreement is low, keep those in float, too",
        )

    def _depthwise(self) -> Risk:
        found: list[tuple[float, onnx.NodeProto]] = []
        for node in self._graph.node:
            weights = self._constants.get(node.input[1]) if node.op_type == "Conv" else None
            if weights is None or weights.dims[1] != 1 or attribute(node, "group", 1) < 2:
                continue
            ranges = np.abs(onnx.numpy_helper.to_array(weights)).reshape(weights.dims[0], -1).max(axis=1)
            ratio = float(ranges.max() / max(float(np.median(ranges)), 1e-12))
            if ratio > WIDE:
                found.append((ratio, node))
        found.sort(key=lambda each: -each[0])
        worst = f"{min(found[0][0], 9999):.0f}" if found else ""
        return self._risk(
            "depthwise",
            [node for _, node in found],
            f"the largest kernel of a channel is up to {worst} times the median one (above {WIDE:.0f} INT8 begins to fail): the many small channels share a scale with a few large ones",
            "Marey gives each channel's weights a scale of their own, but what comes out has one scale for all; keep the layers behind it in float, or train with a weight decay on depthwise kernels",
        )

    def _products(self) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto], list[str], set[str]]:
        """Nodes that multiply a tensor by a function of itself, those whose function pools, its layers, and what the others are called."""
        gated, excited, gates, names = [], [], list[str](), set[str]()
        for node in self._graph.node:
            if node.op_type in _GATED:
                gated.append(node)
                names.add(_GATED[node.op_type])
            if node.op_type != "Mul" or len(set(node.input)) != 2:
                continue
            for source, gate in (tuple(node.input), tuple(reversed(node.input))):
                way = self._between(gate, self._unscaled(source), _DEPTH) if source not in self._constants else None
                if way is None:
                    continue
                kinds = {self._made[name].op_type for name in way}
                if kinds & _POOLS and kinds & {"Conv", "MatMul", "Gemm"}:
                    excited.append(node)
                    gates += [self._made[name].name for name in way if self._made[name].name in self._quantized]
                elif kinds & set(_SQUASHES) and not kinds & {"Conv", "MatMul", "Gemm", *_POOLS}:
                    gated.append(node)
                    names.add(next(name for kind, name in _SQUASHES.items() if kind in kinds))
                else:
                    continue
                break
        return gated, excited, gates, names

    def _unscaled(self, name: str) -> str:
        """What `name` was before it was multiplied by constants: GELU is half of x times a function of x."""
        node = self._made.get(name)
        while node is not None and node.op_type in ("Mul", "Div", "Neg"):
            varying = [source for source in node.input if source not in self._constants]
            if len(varying) != 1:
                break
            name = varying[0]
            node = self._made.get(name)
        return name

    def _between(self, name: str, target: str, depth: int) -> tuple[str, ...] | None:
        """What is computed on a way from `target` to `name`, which is the last of it; None where there is no way."""
        if name == target:
            return ()
        node = self._made.get(name)
        if node is None or depth == 0:
            return None
        for source in node.input:
            found = self._between(source, target, depth - 1) if source not in self._constants else None
            if found is not None:
                return (*found, name)
        return None

    def _normalisations(self) -> list[onnx.NodeProto]:
        """Single nodes, and what was written out: the root of a mean of squares."""
        return [
            node
            for node in self._graph.node
            if node.op_type in _NORMALISATIONS or (node.op_type == "Sqrt" and self._averages(node.input[0], 4))
        ]

    def _averages(self, name: str, depth: int) -> bool:
        node = self._made.get(name)
        if node is None or depth == 0:
            return False
        return node.op_type == "ReduceMean" or any(self._averages(source, depth - 1) for source in node.input)

    def _constant(self, node: onnx.NodeProto) -> bool:
        return any(name in self._constants for name in node.input)

    def _risk(
        self,
        kind: Kind,
        nodes: Sequence[onnx.NodeProto],
        finding: str,
        remedy: str,
        *,
        skip: Sequence[str] | None = None,
    ) -> Risk:
        """`skip`: by default what reads `nodes` in 8 bits."""
        skip = [name for node in nodes for name in self._behind(node)] if skip is None else skip
        layers = dict.fromkeys(layer_name(node) for node in nodes)
        return Risk(kind, tuple(layers), tuple(dict.fromkeys(skip)), finding, remedy)

    def _behind(self, node: onnx.NodeProto) -> list[str]:
        """The nodes that would read the output of `node` in 8 bits."""
        found, waiting, seen = [], list(node.output), set[str]()
        while waiting:
            name = waiting.pop()
            for reader in self._readers.get(name, []) if name not in seen else []:
                if reader.name in self._quantized:
                    found.append(reader.name)
                else:
                    waiting.extend(reader.output)
            seen.add(name)
        return found
