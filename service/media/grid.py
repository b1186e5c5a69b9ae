"""Which frames of a stream are looked at, told as they come: those that a grid of points over a file would show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.media.sample import points_before

T = TypeVar("T")

# What an encoded stream may come in.
Container = Literal["webm", "mpegts"]


@dataclass(frozen=True, slots=True)
class Due(Generic[T]):
    """A frame to be looked at: it is what the stream shows at the points `first` to `last` of the grid."""

    frame: T
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Fresh:
    """A frame of the grid, at the network's size: `pixels` `[1, H, W, C]`; what it cost, with those that were passed over."""

    pixels: NDArray[np.uint8]
    time_s: float
    decode_ms: float
    preprocess_ms: float


class Grid(Generic[T]):
    """Tells the frames that fall on the grid of `sample.by_windows` from those between its points.

    A frame is shown until the next one begins, and so is due only then; unless it comes with the time that it is shown for.
    """

    def __init__(self, spacing_s: float) -> None:
        self.spacing_s = spacing_s
        self.origin_s: float | None = None
        self._next = 0  # the first point whose frame is not known
        self._now = 0.0
        self._shown: T | None = None

    def arrive(self, frame: T, *, time_s: float, duration_s: float = 0.0) -> list[Due[T]]:
        """What is due now that `frame` begins at `time_s`, by the stream's clock: the frame before it, itself, both or none.

        A time that steps back counts as that of the frame before, as in a file.
        """
        if self.origin_s is None:
            self.origin_s = time_s
        # In microseconds: a clock that counts from 1970 is not exact beyond, and a tie with a point would be chance.
        self._now = max(self._now, round(time_s - self.origin_s, 6))
        due = self._until(self._now)
        self._shown = frame
        return [*due, *self.last(duration_s)]

    def last(self, duration_s: float) -> list[Due[T]]:
        """What is due if the frame that came last is shown for `duration_s`: itself, or nothing."""
        return self._until(self._now + duration_s)

    def end(self) -> list[Due[T]]:
        """What is due when no frame follows: the one that came last stands for the next point, unless it was due already."""
        if self._shown is None:
            return []
        due, self._shown = Due(self._shown, self._next, self._next), None
        self._next += 1
        return [due]

    def _until(self, end_s: float) -> list[Due[T]]:
        """The frame that is shown, with the points before `end_s` that are new; whoever was due already is not so again."""
        first = self._next
        self._next = max(first, points_before(end_s, spacing_s=self.spacing_s))
        if self._next == first or self._shown is None:
            return []
        due, self._shown = Due(self._shown, first, self._next - 1), None
        return [due]
