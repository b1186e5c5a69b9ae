"""Which nodes a GPU engine runs step by step, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from models.export.report.cost import GATES, attribute, layer_name
from models.export.report.shapes import shapes_of

# A bidirectional LSTM(128) of two layers over 60 steps, 32 clips, takes 1 ms in TensorRT 10.11 on an RTX 4090 (issue 4490 of
# TensorRT), where cuDNN takes 0.5 ms: 8 µs for each of its 120 steps.
_STEP_US = 8


@dataclass(frozen=True, slots=True)
class Loop:
    """A recurrent node, which TensorRT lowers to a loop of `steps`, in `directions` (1 or 2) that do not wait for each other."""

    layer: str
    kind: str
    hidden: int
    directions: int
    steps: int


def loops(model: onnx.ModelProto, *, sizes: Mapping[str, int]) -> list[Loop]:
    """The LSTM, GRU and RNN nodes of `model` in their order, with its symbolic axes at `sizes`. Raises ExportRefused."""
    nodes = [node for node in model.graph.node if node.op_type in GATES]
    shapes = shapes_of(model, sizes=sizes) if nodes else {}
    return [
        Loop(
            layer_name(node),
            node.op_type,
            int(attribute(node, "hidden_size", shapes[node.input[2]][-1])),
            2 if attribute(node, "direction", b"forward") == b"bidirectional" else 1,
            shapes[node.input[0]][0],
        )
        for node in nodes
    ]


def sentence(found: list[Loop]) -> str:
    """What these cost, for a person."""
    if not found:
        return "No LSTM, GRU or RNN node: TensorRT runs nothing as a loop."
    steps = sum(each.steps for each in found)
    return (
        f"TensorRT runs {'it as a loop' if len(found) == 1 else 'each as a loop of its own'}: {steps} steps that wait for one another, however wide the GPU is. "
        f"At some {_STEP_US} µs a step (reported for an RTX 4090) they take about {steps * _STEP_US / 1000:.2g} ms for a whole batch of clips. Fewer frames or "
        "fewer recurrent layers save time there; INT8 does not, since the recurrent part stays in float."
    )
