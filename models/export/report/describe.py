"""What became of a model, for report.json: its parts with their cost, what runs step by step, what INT8 will hurt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import onnx

from models.export.report.cost import Cost, NodeCost, graph_cost
from models.export.report.loops import loops, sentence
from models.export.report.risks import quantization_risks
from service.bundle.manifest import Role

# Kinds that move or copy values and compute nothing, in a layer that has others.
_PLUMBING = {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}  # fmt: skip

# Under these names exporters list a Keras model's layers.
_LISTS = ("encoder_layers", "head_layers", "clip_layers")


def describe_graphs(
    graphs: Mapping[Role, onnx.ModelProto], *, frames: int, classes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The float graphs of an export, as JSON: `parts` by role, `loops` and a sentence on them, `warnings` about INT8.

    Counted for one frame in the encoder, and for one clip of `frames` frames elsewhere. `classes`: the Keras class
    of each layer that has one. Raises ExportRefused where a graph's axes are not those of its role.
    """
    parts, steps, warnings = {}, [], []
    for role, model in graphs.items():
        sizes = _sizes(model, frames)
        parts[role] = _part(graph_cost(model, sizes=sizes), classes or {})
        steps += loops(model, sizes=sizes)
        if role != "head":
            warnings += quantization_risks(model)
    return {
        "frames": frames,
        "parts": parts,
        "loops": [asdict(each) for each in steps],
        "loops_cost": sentence(steps),
        "warnings": [asdict(each) for each in warnings],
    }


def keras_classes(report: Mapping[str, Any]) -> dict[str, str]:
    """The Keras class of each layer that an exporter's report lists, by the layer's name."""
    return {row["name"]: row["class"] for key in _LISTS for row in report.get(key, [])}


def _sizes(model: onnx.ModelProto, frames: int) -> dict[str, int]:
    """One row, and `frames` steps where the second axis is dynamic."""
    (source,) = model.graph.input
    symbols = [axis.dim_param for axis in source.type.tensor_type.shape.dim]
    return {symbol: size for symbol, size in zip(symbols, (1, frames), strict=False) if symbol}


def _part(cost: Cost, classes: Mapping[str, str]) -> dict[str, Any]:
    layers: dict[str, list[NodeCost]] = {}
    for node in cost.nodes:
        layers.setdefault(node.layer, []).append(node)
    return {
        "macs": cost.macs,
        "parameters": cost.parameters,
        "layers": [
            {
                "name": name,
                "class": classes.get(name) or _kinds(nodes),
                "output": list(nodes[-1].output[1:]),
                "parameters": sum(node.parameters for node in nodes),
                "macs": sum(node.macs for node in nodes),
            }
            for name, nodes in layers.items()
            if name in classes or {node.kind for node in nodes} - {"Cast", "Identity"}
        ],
    }


def _kinds(nodes: list[NodeCost]) -> str:
    kinds = dict.fromkeys(node.kind for node in nodes if node.kind not in _PLUMBING)
    return "+".join(kinds or dict.fromkeys(node.kind for node in nodes))
