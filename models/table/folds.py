"""Grouped cross-validations of the same folds, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

from models.errors import DataError
from models.table.cells import NONE, milliseconds, paragraphs, percent, points, table
from models.table.entry import Entry

PATTERN = "*/crossval*.json"
_NEEDED = {"recipe", "data", "data_sha256", "n", "groups", "fold_sizes", "ours", "floor"}

_HEADER = (
    "recipe",
    "frames",
    "parameters",
    "trainings a fold",
    "accuracy",
    "spread",
    "each fold",
    "against the floor",
    "ms a clip, float / INT8",
)


@dataclass(frozen=True, slots=True)
class CrossValidated:
    """What `marey-build crossval` wrote."""

    content: Mapping[str, Any]

    @property
    def folds(self) -> tuple[Any, ...]:
        """What must be the same for two to stand in one table."""
        told = self.content
        return (told["data"], told["n"], told["groups"], *told["fold_sizes"], told["data_sha256"])


def read_crossvals(folder: Path) -> tuple[CrossValidated, ...]:
    """Those below `folder`, in the order of their names; raises DataError for a file that is none."""
    return tuple(_read(file) for file in sorted(folder.glob(PATTERN)))


def _read(file: Path) -> CrossValidated:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is no JSON ({error}); write it again with marey-build crossval --out") from None
    missing = _NEEDED - set(content)
    if missing:
        raise DataError(f"{file} lacks {', '.join(sorted(missing))}; write it again with marey-build crossval --out")
    return CrossValidated(content)


def fold_tables(found: Sequence[CrossValidated], entries: Sequence[Entry]) -> list[str]:
    """One table for each set of folds, the floor below its recipes."""
    by_id = {entry.id: entry for entry in entries}
    groups: dict[tuple[Any, ...], list[CrossValidated]] = {}
    for each in found:
        groups.setdefault(each.folds, []).append(each)
    parts: list[list[str]] = []
    for same in sorted(groups.values(), key=lambda group: group[0].folds[0]):
        first = same[0].content
        floor = next((each.content["floor"] for each in same if each.content["floor"] is not None), None)
        folds = len(first["fold_sizes"])
        parts += [
            [f"### {first['data']}: {folds} folds of whole groups, n = {first['n']}, {first['groups']} groups"],
            table(
                _HEADER,
                [
                    *(_row(each.content, by_id.get(each.content["recipe"]), floor) for each in same),
                    *([_floor(floor)] if floor else []),
                ],
            ),
        ]
    return paragraphs(*parts)


def _row(told: Mapping[str, Any], entry: Entry | None, floor: Mapping[str, Any] | None) -> list[str]:
    ours = told["ours"]
    timing = entry.timing if entry else None
    frames = told.get("frames") or (timing.frames if timing else None)
    parameters = told.get("parameters") or (entry.parameters if entry else None)
    return [
        f"`{told['recipe']}`",
        str(frames or NONE),
        f"{parameters:,}" if parameters else NONE,
        str(len(ours["by_seed"])),
        percent(ours["accuracy"]) + f" ± {100 * ours['standard_error']:.1f}",
        f"{100 * stdev(ours['by_fold']):.1f}",
        _each(ours["by_fold"]),
        _against(ours, floor) if floor else NONE,
        milliseconds(timing if timing and timing.frames == frames else None),  # of that many frames, or of none
    ]


def _against(ours: Mapping[str, Any], floor: Mapping[str, Any]) -> str:
    differences = [one - other for one, other in zip(ours["by_fold"], floor["by_fold"], strict=True)]
    return points(ours["accuracy"] - floor["accuracy"], stdev(differences) / len(differences) ** 0.5)


def _floor(floor: Mapping[str, Any]) -> list[str]:
    accuracy = percent(floor["accuracy"]) + f" ± {100 * floor['standard_error']:.1f}"
    spread = f"{100 * stdev(floor['by_fold']):.1f}"
    return ["the floor", NONE, NONE, NONE, accuracy, spread, _each(floor["by_fold"]), NONE, NONE]


def _each(by_fold: Sequence[float]) -> str:
    return " ".join(f"{100 * value:.0f}" for value in by_fold)
