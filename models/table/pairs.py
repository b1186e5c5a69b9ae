"""Rows that were judged on the very same samples, each beside the plain CNN, and beside the floor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.judging.paired import difference
from models.table.cells import paragraphs, percent, points, table
from models.table.entry import Answers, Entry, Floor

_PLAIN = ("cnn", "small_cnn")
_FLOOR = "floor"
_TESTED = ["n", "difference in points [95 %]", "right alone: it, the other", "p (McNemar, exact)"]


def pair_table(entries: Sequence[Entry]) -> list[str]:
    """Each entry beside the plain CNN on the same split, or beside the first where there is none."""
    splits: dict[str, list[tuple[Entry, Answers]]] = {}
    for entry in entries:
        if entry.answers is not None and "fp32" in entry.answers.wrong:
            splits.setdefault(entry.answers.order, []).append((entry, entry.answers))
    rows = []
    for same in splits.values():
        plain, theirs = next((each for each in same if each[0].architecture in _PLAIN), same[0])
        for entry, answers in same:
            if entry is not plain:
                rows.append(
                    [f"`{entry.id}`", f"`{plain.id}`", entry.data.name or "", *_tested(right(theirs), right(answers))]
                )
    header = ["model", "beside", "data", *_TESTED]
    return table(header, sorted(rows, key=lambda row: (row[2], row[0]))) if rows else []


def floor_table(floors: Sequence[Floor], entries: Sequence[Entry]) -> list[str]:
    """Each floor with every entry that was judged on its samples."""
    rows = []
    for floor in floors:
        theirs = right(floor.answers, by=_FLOOR)
        for entry in entries:
            if entry.answers is not None and entry.answers.order == floor.answers.order:
                said = [f"`{entry.id}`", floor.data, percent(floor.accuracy, floor.accuracy_interval)]
                rows.append([*said, *_tested(theirs, right(entry.answers))])
    if not rows:
        return []
    commands = sorted({f"    {floor.command}" for floor in floors})
    return paragraphs(table(["model", "data", "the floor [95 %]", *_TESTED], rows), commands)


def _tested(theirs: NDArray[np.bool_], ours: NDArray[np.bool_]) -> list[str]:
    """The cells of `_TESTED`."""
    found = difference(theirs, ours)
    low, high = found.interval
    return [
        str(found.n),
        f"{points(found.value)} [{points(low)}, {points(high)}]",
        f"{found.gained}, {found.lost}",
        f"{found.p:.2g}",
    ]


def right(answers: Answers, *, by: str = "fp32") -> NDArray[np.bool_]:
    """`[n]`: which samples were answered right."""
    found = np.ones(answers.n, bool)
    found[[place for place, _ in answers.wrong[by]]] = False
    return found
