"""The likeliest readings as a table for the user to judge: what the model would answer under each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.readings.candidates import Candidate
from models.readings.family import Family

SHOWN = 3
_TOP = 3
_ALIKE = 0.1  # of the distance: readings nearer to each other than this cannot be told apart


def table(found: Sequence[Candidate], *, clip: str, count: int, labels: Sequence[str], family: Family | None) -> str:
    """The first three of `found`, with the answers to the clip named `clip`, and what the order is worth. `count`: clips tried."""
    shown = found[:SHOWN]
    width = max(len(each.flags) for each in shown)
    heading = f"the likeliest readings, and what the model says under each of {clip} (how well it fits: {count} clip{'s' * (count > 1)} tried)"
    lines = [f"{heading}:"]
    lines += [f"  {each.flags:<{width}}  {_fit(each)}  {_top(each, labels)}" for each in shown]
    return "\n".join([*lines, _hint(found, family)])


def _fit(each: Candidate) -> str:
    return (
        f"off by {each.distance:<6.2f}"
        if each.distance is not None
        else f"sure to {each.answers.max(axis=-1).mean():4.0%}"
    )


def _top(each: Candidate, labels: Sequence[str]) -> str:
    row = each.answers[0]
    order = np.argsort(-row)[:_TOP]
    return ", ".join(f"{labels[index]} {row[index]:.2f}" for index in order)


def _hint(found: Sequence[Candidate], family: Family | None) -> str:
    best, other = found[0], found[1]
    named = (
        f"; the layers are those of {family.name} of keras.applications, which takes --preprocess {family.preprocess}"
        if family
        else ""
    )
    if best.distance is None or other.distance is None:
        return f"no BatchNormalization tells which is right: the order is the customary one and the answers must decide{named}"
    told = f"off: how far activations are from the running mean and variance of {best.judge!r}, 0 as in training"
    if other.distance - best.distance < _ALIKE * other.distance:
        told += f"; the first two fit alike ({best.distance:.3f} and {other.distance:.3f}), look at how training read its pictures"
    return told + named
