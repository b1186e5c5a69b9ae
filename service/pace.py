"""How fast work goes of late, and how much of it lies ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")

_RECENT = 0.2


@dataclass(frozen=True, slots=True)
class Line:
    """What a newcomer finds before it, in seconds: the work of those that wait, and what is left of that under way."""

    waiting_s: float = 0.0
    running_s: float = 0.0


class Pace(Generic[K]):
    """Seconds a unit of work takes, for each kind of work, as a moving mean. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._seconds: dict[K, float] = {}

    def note(self, kind: K, *, units: float, seconds: float) -> None:
        """`units` of this kind took `seconds`."""
        new, before = seconds / units, self._seconds.get(kind)
        self._seconds[kind] = new if before is None else before + _RECENT * (new - before)

    def forget(self, kind: K) -> None:
        """There will be no more of this kind. By the thread that writes."""
        self._seconds.pop(kind, None)

    def seconds(self, kind: K, units: float) -> float:
        """What `units` of this kind will take; 0 where none has been seen yet, and only trying can tell."""
        return self._seconds.get(kind, 0.0) * units

    def most(self, kind: K, seconds: float) -> float:
        """How many units of this kind `seconds` are enough for; infinitely many where none has been seen yet."""
        each = self._seconds.get(kind, 0.0)
        return seconds / each if each else float("inf")
