"""What crosses between an ingress replica and an engine replica; all of it can be pickled, and times are seconds from now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.bundle.manifest import Manifest, Stage
from service.engine.base import EngineInfo
from service.errors import MareyError
from service.pace import Line
from service.priority import Priority
from service.waiting import Rows


@dataclass(frozen=True, slots=True)
class Standing:
    """How an engine replica stands: what lies before a newcomer, and what a unit of `work` takes in each of its networks."""

    replica: str
    lines: Mapping[Priority, Line]
    pace_s: Mapping[Stage, float]


@dataclass(frozen=True, slots=True)
class Introduction:
    """What an engine replica serves, and by what; `golden_difference` as `Replica` has it."""

    manifest: Manifest
    info: EngineInfo
    golden_difference: float
    standing: Standing


@dataclass(frozen=True, slots=True)
class Reply:
    """The rows that were asked for, network by network, or why there are none."""

    rows: tuple[Rows, ...]
    standing: Standing
    error: MareyError | None = None
