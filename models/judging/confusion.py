"""Confusion matrices, as the report holds them and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.judging.plots import new_figure, png

# Above this many classes neither axis labels nor a full matrix can be read.
READABLE_CLASSES = 30


def confusion_entry(matrix: NDArray[np.int64], labels: Sequence[str]) -> dict[str, Any]:
    """The whole matrix for few classes; for many, the pairs that were confused, most often first."""
    if len(labels) <= READABLE_CLASSES:
        return {"labels": list(labels), "matrix": matrix.tolist()}
    wrong = matrix - np.diag(np.diag(matrix))
    pairs = sorted(zip(*np.nonzero(wrong), strict=True), key=lambda pair: (-wrong[pair], pair))
    return {
        "confused": [
            {"truth": labels[truth], "predicted": labels[predicted], "count": int(wrong[truth, predicted])}
            for truth, predicted in pairs[:100]
        ]
    }


def confusion_png(matrix: NDArray[np.int64], labels: Sequence[str], *, title: str) -> bytes:
    """Truth down, prediction across: for few classes each cell's count and share of its row, for many a dot a confusion."""
    few = len(labels) <= READABLE_CLASSES
    side = 2.5 + 0.55 * len(labels) if few else 6.0
    figure = new_figure(side + 1, side)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel="predicted", ylabel="true")
    if few:
        _draw_cells(axes, matrix, labels)
    else:
        _draw_dots(axes, matrix)
    return png(figure)


def _draw_cells(axes: Any, matrix: NDArray[np.int64], labels: Sequence[str]) -> None:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.figure.colorbar(drawn, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color)


def _draw_dots(axes: Any, matrix: NDArray[np.int64]) -> None:
    """Cells of a thousand classes are smaller than a pixel, and would be lost."""
    truth, predicted = np.nonzero(matrix)
    right = truth == predicted
    for name, chosen, color in (("right", right, "tab:blue"), ("wrong", ~right, "tab:red")):
        count = int(matrix[truth[chosen], predicted[chosen]].sum())
        axes.scatter(predicted[chosen], truth[chosen], s=5, color=color, label=f"{name} ({count})")
    axes.set(xlim=(-10, len(matrix) + 10), ylim=(len(matrix) + 10, -10), aspect="equal")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
