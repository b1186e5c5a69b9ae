"""ONNX nodes of the layers of our own zoo."""

from __future__ import annotations

from typing import Any

from models.export.nodes import Given, Graph, Value, writes
from models.zoo.layers import TemporalDifference


@writes(TemporalDifference)
def _temporal_difference(graph: Graph, _layer: Any, given: Given) -> Value:
    """`[x_t, x_t − x_{t−1}]`; the first frame stands before itself."""
    x: Value = given["inputs"]
    axes, start, one = (graph.integers([value], name) for value, name in ((1, "axes"), (0, "start"), (1, "one")))
    first = graph.add("Slice", [x, start, one, axes], (None, 1, x.width))
    rest = graph.add("Slice", [x, start, graph.integers([-1], "last"), axes], (None, None, x.width))
    before = graph.add("Concat", [first, rest], x.shape, axis=1)
    change = graph.add("Sub", [x, before], x.shape)
    return graph.add("Concat", [x, change], (*x.shape[:-1], 2 * x.width), axis=2)
