"""ONNX nodes of the layers of our own zoo."""

from __future__ import annotations

from typing import Any

from models.export.nodes.graph import Given, Graph, Value, writes
from models.zoo.layers import GAIN, CellMotion, TemporalDifference


@writes(TemporalDifference)
def _temporal_difference(graph: Graph, _layer: Any, given: Given) -> Value:
    """`[x_t, x_t − x_{t−1}]`."""
    x: Value = given["inputs"]
    return graph.add("Concat", [x, _change(graph, x)], (*x.shape[:-1], 2 * x.width), axis=2)


@writes(CellMotion)
def _cell_motion(graph: Graph, layer: Any, given: Given) -> Value:
    """log(1 + GAIN·mean and largest |x_t − x_{t−1}| over the cells)."""
    x: Value = given["inputs"]
    size = graph.add("Abs", [_change(graph, x)], x.shape)
    channels = x.width // layer.cells
    by_cell = (*x.shape[:-1], layer.cells, channels)
    cells = graph.add("Reshape", [size, graph.integers([0, 0, layer.cells, channels], "cells")], by_cell)
    over, each = graph.integers([2], "over"), (*x.shape[:-1], channels)
    parts = [graph.add(kind, [cells, over], each, keepdims=0) for kind in ("ReduceMean", "ReduceMax")]
    both = graph.add("Concat", parts, (*x.shape[:-1], 2 * channels), axis=2)
    scaled = graph.add("Mul", [both, graph.constant(GAIN, "gain")], both.shape)
    return graph.add("Log", [graph.add("Add", [scaled, graph.constant(1.0, "unit")], both.shape)], both.shape)


def _change(graph: Graph, x: Value) -> Value:
    """`x_t − x_{t−1}`; the first frame stands before itself."""
    axes, start, one = (graph.integers([value], name) for value, name in ((1, "axes"), (0, "start"), (1, "one")))
    first = graph.add("Slice", [x, start, one, axes], (None, 1, x.width))
    rest = graph.add("Slice", [x, start, graph.integers([-1], "last"), axes], (None, None, x.width))
    return graph.add("Sub", [x, graph.add("Concat", [first, rest], x.shape, axis=1)], x.shape)
