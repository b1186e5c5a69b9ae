"""How often each class is recognised, by float and by INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.export.report.table import markdown_table
from models.judging.metrics import wilson

# Up to so many classes all are listed; of more, so many at most, and only those on which float and INT8 differ.
LISTED = 30
# From so many samples of a class on, its interval is narrower than some 35 points.
_ENOUGH = 30


def by_class(
    truth: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    other: NDArray[np.float32] | None,
    *,
    labels: Sequence[str],
) -> dict[str, Any]:
    """Of float's `probabilities` `[n, K]` and INT8's (`other`, where there is one), what of each class in `truth` `[n]` is named right.

    `classes`: each with its n, and how many are `right` and the 95 % `interval` (Wilson) for `float` and `int8`. Of many classes those
    on which the two differ most come first, losses before gains, and without INT8 those that are recognised least. `left_out` counts the others that `truth` holds.
    """
    named = {"float": probabilities.argmax(axis=1)} | ({} if other is None else {"int8": other.argmax(axis=1)})
    rows = []
    for label in np.unique(truth):
        of = truth == label
        n = int(of.sum())
        row: dict[str, Any] = {"label": labels[label], "n": n}
        for who, said in named.items():
            right = int((said[of] == label).sum())
            row[who] = {"right": right, "interval": [round(bound, 4) for bound in wilson(right, n)]}
        rows.append(row)
    held = len(rows)
    sizes = [row["n"] for row in rows]
    if len(labels) > LISTED:
        rows.sort(key=lambda row: (-abs(_difference(row)), _difference(row), row["float"]["right"] / row["n"]))
        rows = [row for row in rows if other is None or _difference(row)][:LISTED]
    return {"held": held, "left_out": held - len(rows), "smallest": min(sizes), "largest": max(sizes), "classes": rows}


def class_lines(found: Mapping[str, Any], *, split: str) -> list[str]:
    """The section for a person, by what `by_class` found on `split`."""
    rows, both = found["classes"], any("int8" in row for row in found["classes"])
    cells = [
        [row["label"], str(row["n"]), *(_share(row[who], row["n"]) for who in ("float", "int8") if who in row)]
        + ([f"{row['int8']['right'] - row['float']['right']:+d}" if _difference(row) else "0"] if both else [])
        for row in rows
    ]
    titles = ["class", f"n ({split})", "float right [95 % Wilson]"]
    if both:
        titles += ["INT8 right [95 % Wilson]", "INT8 − float, samples"]
    lines = markdown_table(titles, cells) if cells else []
    if found["left_out"]:
        compared = "on which float and INT8 are right equally often" + (
            " or differ less" if len(rows) == LISTED else ""
        )
        why = compared if both or not rows else "which are recognised more often"
        lines += ["", f"Left out: {found['left_out']} of {found['held']} classes, {why}."]
    if found["smallest"] < _ENOUGH:
        low, high = wilson(round(found["smallest"] / 2), found["smallest"])
        lines += [
            "",
            f"n is small: {_range(found['smallest'], found['largest'])} a class on {split}. One sample more or less is up to "
            f"{1 / found['smallest']:.0%} of its class, whose interval is up to {100 * (high - low):.0f} points wide: "
            "of a single class this shows large faults only.",
        ]
    return lines


def _difference(row: Mapping[str, Any]) -> float:
    return float(row["int8"]["right"] - row["float"]["right"]) / float(row["n"]) if "int8" in row else 0.0


def _share(found: Mapping[str, Any], n: int) -> str:
    low, high = found["interval"]
    return f"{found['right']} = {found['right'] / n:.1%} [{low:.1%}, {high:.1%}]"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
