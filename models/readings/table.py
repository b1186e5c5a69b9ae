"""The likeliest readings as a table for the user to judge: what the model would answer under each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.readings.candidates import ALIKE, Candidate
from models.readings.family import Family

_TOP = 3


def table(
    found: Sequence[Candidate],
    rows: Sequence[NDArray[np.float32]],
    *,
    clip: str,
    count: int,
    labels: Sequence[str],
    family: Family | None,
) -> str:
    """The likeliest of `found` with `rows`, the model's answers `[K]` to the clip named `clip`, and what the order is worth.

    `count`: how many clips the statistics are of.
    """
    shown = found[: len(rows)]
    width = max(len(each.flags) for each in shown)
    lines = [f"the likeliest readings, and what the model says to {clip} under each:"]
    for each, row in zip(shown, rows, strict=True):
        off = "" if each.distance is None else f"off by {each.distance:<6.2f}  "
        best = ", ".join(f"{labels[index]} {row[index]:.2f}" for index in np.argsort(-row)[:_TOP])
        lines.append(f"  {each.flags:<{width}}  {off}{best}")
    return "\n".join([*lines, _worth(found, count, family)])


def _worth(found: Sequence[Candidate], count: int, family: Family | None) -> str:
    best, other = found[0], found[1]
    named = (
        f"; the layers are those of {family.name} of keras.applications, which takes --preprocess {family.preprocess}"
        if family
        else ""
    )
    if best.distance is None or other.distance is None:
        why = f"the running mean and variance of {best.judge!r} are untrained (0 and 1), so " if best.judge else ""
        return f"{why}no BatchNormalization tells which is right: the order is the customary one and the answers must decide{named}"
    told = (
        f"off: how far the activations of {count} clip{'s' * (count > 1)} are from the running mean and variance of {best.judge!r}, "
        "0 as in training"
    )
    alike = abs(other.distance - best.distance) <= ALIKE * max(best.distance, other.distance)
    if alike and best.preprocess == other.preprocess:
        told += f"; they cannot tell rgb from bgr here ({best.distance:.3f} and {other.distance:.3f}): look at how training read its pictures"
    elif alike:
        told += f"; the first two fit alike ({best.distance:.3f} and {other.distance:.3f}): look at how training read its pictures"
    return told + named
