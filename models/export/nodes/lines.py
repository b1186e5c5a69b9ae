"""ONNX nodes of the layers that read a surface line by line."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.export.nodes.graph import Given, Graph, Value, writes
from models.zoo.lines import BackToLines, EachLine, SharpenedMean


@writes(EachLine)
def _each_line(graph: Graph, _layer: Any, given: Given) -> Value:
    x: Value = given["inputs"]
    rest = [size or 0 for size in x.shape[2:]]
    return graph.add("Reshape", [x, graph.integers([-1, *rest], "shape")], (None, *rest))


@writes(BackToLines)
def _back_to_lines(graph: Graph, layer: Any, given: Given) -> Value:
    x: Value = given["inputs"]
    rest = [layer.lines, *(size or 0 for size in x.shape[1:])]
    return graph.add("Reshape", [x, graph.integers([-1, *rest], "shape")], (None, *rest))


@writes(SharpenedMean)
def _sharpened_mean(graph: Graph, layer: Any, given: Given) -> Value:
    """Σ_i z_i · softmax_i(sharpness · z_i) over the places."""
    x: Value = given["inputs"]
    sharp = graph.add("Mul", [x, graph.constant(np.asarray(layer.sharpness), "sharpness")], x.shape)
    weights = graph.add("Softmax", [sharp], x.shape, axis=1)
    weighed = graph.add("Mul", [x, weights], x.shape)
    return graph.add("ReduceSum", [weighed, graph.integers([1], "over")], (x.shape[0], x.shape[2]), keepdims=0)
