"""Rows that were judged on the very same samples, each beside the plain CNN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.judging.paired import difference
from models.table.cells import points, table
from models.table.entry import Answers, Entry

_PLAIN = ("cnn", "small_cnn")


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
                rows.append(_row(plain, theirs, entry, answers))
    header = [
        "model",
        "beside",
        "data",
        "n",
        "difference in points [95 %]",
        "right alone: it, the other",
        "p (McNemar, exact)",
    ]
    return table(header, sorted(rows, key=lambda row: (row[2], row[0]))) if rows else []


def _row(plain: Entry, theirs: Answers, entry: Entry, ours: Answers) -> list[str]:
    found = difference(right(theirs), right(ours))
    low, high = found.interval
    return [
        f"`{entry.id}`",
        f"`{plain.id}`",
        entry.data.name or "",
        str(found.n),
        f"{points(found.value)} [{points(low)}, {points(high)}]",
        f"{found.gained}, {found.lost}",
        f"{found.p:.2g}",
    ]


def right(answers: Answers, *, precision: str = "fp32") -> NDArray[np.bool_]:
    """`[n]`: which samples were answered right."""
    found = np.ones(answers.n, bool)
    found[[place for place, _ in answers.wrong[precision]]] = False
    return found
