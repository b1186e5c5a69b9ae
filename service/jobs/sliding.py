"""Windows of a video that is still being decoded: those of `sample.by_windows`, each as soon as its last frame is there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from service.media.frames import Window, Windows
from service.media.sample import grid_points


class Sliding:
    """Told of frames in order, and of how many points of the grid each is shown at; gives windows, in frame numbers.

    The first `done` windows are passed over: another's work. Remembers as many points as one window has.
    """

    def __init__(self, plan: Windows, *, done: int = 0) -> None:
        self._plan = plan
        self._spacing = plan.window_s / plan.frames
        self._step = max(1, math.floor(plan.stride_s / self._spacing + 0.5))
        self._next = done * self._step
        self._from = self._next
        self._frames = 0
        self._points = 0
        # Frame, and the point after its last: of the points that a window to come may hold.
        self._runs: deque[tuple[int, int]] = deque()

    def stride_s(self, duration_s: float) -> float:
        """As used, in a video of that length: a multiple of the grid's spacing."""
        spacing = self._spacing_of(duration_s)
        return max(1, math.floor(self._plan.stride_s / spacing + 0.5)) * spacing

    @property
    def needed(self) -> int:
        """The first frame that a window to come may hold."""
        return self._runs[0][0] if self._runs else self._frames

    def sure(self, points: Sequence[int]) -> tuple[bool, ...]:
        """Of the next frames, shown at so many `points` each: which are in a window whose turn is still to come.

        Of the others only the end of the video tells.
        """
        ends = tuple(accumulate(points, initial=self._points))
        return tuple(self._inside(first, end) for first, end in pairwise(ends))

    def add(self, points: int) -> Iterator[Window]:
        """The next frame, shown at `points` points: the windows that it completes, to be taken before the next call."""
        self._points += points
        self._runs.append((self._frames, self._points))
        self._frames += 1
        # The points of a video shorter than a window are as many as of one window, and closer together: only what
        # follows them, or the end, tells which of the two it is.
        while self._next + self._plan.frames <= self._points - (self._next == 0):
            window = self._window(self._next)
            self._next += self._step
            yield window
        # The last window of a video may begin before the next one would.
        keep = min(self._next, self._points - self._plan.frames)
        while self._runs and self._runs[0][1] <= keep:
            self._runs.popleft()

    def finish(self, duration_s: float) -> tuple[Window, ...]:
        """The windows that only the end of the video settles: the last one, moved back, or the only one of a short video."""
        plan, total = self._plan, self._points
        if not self._frames:
            return ()
        if total <= plan.frames:
            end = grid_points(duration_s, plan=plan) * self._spacing_of(duration_s)
            return (Window(0.0, end, 0, self._frames),) if self._next == 0 else ()
        if self._next - self._step + plan.frames >= total:
            return ()
        return (self._window(total - plan.frames),)

    def _spacing_of(self, duration_s: float) -> float:
        """A video shorter than a window is one window of its own length, which makes the grid."""
        return (min(self._plan.window_s, duration_s) if duration_s > 0 else self._plan.window_s) / self._plan.frames

    def _inside(self, first: int, end: int) -> bool:
        """Whether a point from `first` to before `end` lies in a window that is still to come."""
        first = max(first, self._from)
        begins = first // self._step * self._step  # the last window that begins at or before it
        return first < end and (first < begins + self._plan.frames or begins + self._step < end)

    def _window(self, start: int) -> Window:
        stop = start + self._plan.frames
        inside = [frame for frame, end in self._runs if end > start]
        first = inside[0]
        last = next(frame for frame, end in self._runs if end >= stop)
        return Window(start * self._spacing, stop * self._spacing, first, last - first + 1)
