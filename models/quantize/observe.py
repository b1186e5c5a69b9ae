"""What the tensors of a float graph hold on the calibration rows: how they are spread, and what each channel reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.export.runtime import Runtime

BINS = 2048
_BATCH = 8  # frames at a time, whole clips at least; nothing that is found depends on it
# A histogram of more rows hardly changes, and takes as long again as the network.
_COUNTED = 64
_REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceMean")


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """One tensor: its `largest` |x|, `counts` `[2048]` of |x| in equal bins from 0 to that, and of each channel the largest |x| and the mean."""

    largest: float
    counts: NDArray[np.int64]
    peaks: NDArray[np.float64]
    means: NDArray[np.float64]


def observe(model: onnx.ModelProto, rows: NDArray[np.uint8], names: Sequence[str]) -> dict[str, Observed]:
    """The tensors `names` of `model`, whose weights are plain float32, on `rows`: frames `[N, H, W, C]`, or clips `[N, T, H, W, C]`.

    Extremes and means are those of all rows, the counts of 64 at most, spread over them.
    """
    peaks, means = _reduced(model, rows, names)
    largest = {name: float(peaks[name].max()) for name in names}
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    run = Runtime(_showing(model, [helper.make_empty_tensor_value_info(name) for name in names]))
    picked = rows[np.unique(np.linspace(0, len(rows) - 1, min(_COUNTED, len(rows))).round().astype(int))]
    for _, found in _runs(run, picked):
        for name in names:
            counts[name] += _counted(found[name], largest[name])
    return {name: Observed(largest[name], counts[name], peaks[name], means[name]) for name in names}


def _reduced(
    model: onnx.ModelProto, rows: NDArray[np.uint8], names: Sequence[str]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Of each channel the largest |x| and the mean, computed inside the graph, so that only they leave it."""
    outputs = [f"{name}/{kind}" for name in names for kind in _REDUCTIONS]
    reducing = _showing(model, [helper.make_empty_tensor_value_info(name) for name in outputs])
    ranks = _ranks(model)
    for name in names:
        channel = _channel(model.graph, name, ranks[name])
        axes = np.array([axis for axis in range(ranks[name]) if axis != channel], np.int64)
        reducing.graph.initializer.append(numpy_helper.from_array(axes, f"{name}/axes"))
        reducing.graph.node.extend(
            helper.make_node(kind, [name, f"{name}/axes"], [f"{name}/{kind}"], keepdims=0) for kind in _REDUCTIONS
        )
    peaks = dict.fromkeys(names, np.zeros((), np.float64))
    means = dict.fromkeys(names, np.zeros((), np.float64))
    for share, found in _runs(Runtime(reducing), rows):
        for name in names:
            highest, lowest, mean = (found[f"{name}/{kind}"].astype(np.float64) for kind in _REDUCTIONS)
            peaks[name] = np.maximum(peaks[name], np.maximum(highest, -lowest))
            means[name] = means[name] + share * mean
    return peaks, means


def _showing(model: onnx.ModelProto, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """A copy of `model` that gives `outputs`, too."""
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    given = {value.name for value in shown.graph.output}
    shown.graph.output.extend(value for value in outputs if value.name not in given)
    return shown


def _runs(run: Runtime, rows: NDArray[np.uint8]) -> Iterator[tuple[float, dict[str, NDArray[np.float32]]]]:
    """Batch by batch, which share of the rows it is and what the graph gives."""
    batch = _BATCH if rows.ndim == 4 else max(1, _BATCH // rows.shape[1])
    for start in range(0, len(rows), batch):
        part = np.ascontiguousarray(rows[start : start + batch])
        yield len(part) / len(rows), run(part)


def _counted(values: NDArray[np.float32], largest: float) -> NDArray[np.int64]:
    if not largest > 0:
        return np.zeros(BINS, np.int64)
    bins = (np.abs(values).ravel() * np.float32(BINS / largest)).astype(np.int32)
    return np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.value_info, *graph.input, *graph.output)
    }


def _channel(graph: onnx.GraphProto, name: str, rank: int) -> int:
    """The axis of channels: the second of what a convolution reads, the last of what a product does."""
    return 1 if any(node.op_type == "Conv" and node.input[0] == name for node in graph.node) else rank - 1
