"""Which frames are looked at: pure functions from counts and times to frame numbers.

Frames are numbered in decode order from 0. A frame is shown from its own time to the next one's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.media.frames import Window, Windows

# Containers store times in units of up to a millisecond, so that 1/30 s reads as 0.033: a point of time that falls on the
# start of a frame must find that frame whichever way its time was rounded.
TICK_S = 1e-3


@dataclass(frozen=True, slots=True)
class Grid:
    """Frames shared by windows: `windows` refer to positions in `indices`; `stride_s` is the stride after rounding."""

    indices: tuple[int, ...]
    windows: tuple[Window, ...]
    stride_s: float


def _as_is(count: int, frames: int) -> tuple[int, ...]:
    del frames
    return tuple(range(count))


def _repeat(count: int, frames: int) -> tuple[int, ...]:
    return _spread(count, frames)


# What becomes of a clip with fewer frames than were asked for: `count` frames exist, `frames` are wanted.
SHORT_CLIP: dict[Literal["as_is", "repeat"], Callable[[int, int], tuple[int, ...]]] = {
    "as_is": _as_is,
    "repeat": _repeat,
}


def uniform(count: int, frames: int, *, short_clip: Literal["as_is", "repeat"] = "as_is") -> tuple[int, ...]:
    """`frames` numbers spread over `count` frames: floor((i + 0.5)·count / frames).

    A clip with fewer gives each of its frames once (`as_is`), or some of them several times in a row (`repeat`).
    """
    _at_least_one(count=count, frames=frames)
    if count < frames:
        return SHORT_CLIP[short_clip](count, frames)
    return _spread(count, frames)


def by_fps(
    times_s: Sequence[float], *, fps: float, max_frames: int, duration_s: float | None = None
) -> tuple[int, ...]:
    """The frames shown at (j + 0.5)/fps, each once; where these are more than `max_frames`, as many of them, spread evenly.

    So the whole clip is always looked at. `duration_s` is the end of the last frame (default: a frame after its start).
    """
    _at_least_one(count=len(times_s), frames=max_frames)
    end = _end(times_s) if duration_s is None else duration_s
    points = (np.arange(max(1, round(end * fps))) + 0.5) / fps
    found = tuple(dict.fromkeys(_shown_at(times_s, points).tolist()))
    return tuple(found[i] for i in uniform(len(found), max_frames))


def by_windows(times_s: Sequence[float], *, plan: Windows, duration_s: float | None = None) -> Grid:
    """Windows on one grid of points (j + 0.5)·window/frames, so that a frame that lies in several is encoded once.

    The stride is rounded to a multiple of the grid's spacing, and is at least one. The last window is moved back to end
    with the video, so that its tail is looked at too; a video shorter than a window is one window of its own length. Where the video has
    fewer frames than the grid has points, each frame stands once, and a window holds fewer than `plan.frames`.
    """
    _at_least_one(count=len(times_s), frames=plan.frames)
    end = _end(times_s) if duration_s is None else duration_s
    spacing = _spacing(end, plan)
    step = max(1, math.floor(plan.stride_s / spacing + 0.5))
    total = grid_points(end, plan=plan)
    shown = _shown_at(times_s, (np.arange(total) + 0.5) * spacing)
    indices, position = np.unique(shown, return_inverse=True)
    starts = list(range(0, max(total - plan.frames, 0) + 1, step))
    if starts[-1] + plan.frames < total:
        starts.append(total - plan.frames)
    windows = []
    for start in starts:
        stop = min(start + plan.frames, total)
        first, last = int(position[start]), int(position[stop - 1])
        windows.append(Window(start * spacing, stop * spacing, first, last - first + 1))
    return Grid(tuple(int(i) for i in indices), tuple(windows), step * spacing)


def grid_points(duration_s: float, *, plan: Windows) -> int:
    """How many points the grid of `plan` has on a video of this length; at least one."""
    return max(1, math.floor(duration_s / _spacing(duration_s, plan) + 0.5))


def points_before(begins_s: float, *, spacing_s: float) -> int:
    """How many points (j + 0.5)·spacing show an earlier frame than one that begins at `begins_s`, as `by_windows` sees it."""
    count = max(0, math.ceil((begins_s - TICK_S) / spacing_s - 0.5))
    # The division may round to either side of a point: the comparison is that of `_shown_at`.
    while count and (count - 0.5) * spacing_s + TICK_S >= begins_s:
        count -= 1
    while (count + 0.5) * spacing_s + TICK_S < begins_s:
        count += 1
    return count


def _spacing(duration_s: float, plan: Windows) -> float:
    return (min(plan.window_s, duration_s) if duration_s > 0 else plan.window_s) / plan.frames


def _spread(count: int, frames: int) -> tuple[int, ...]:
    # In integers: (2i + 1)·n // 2T is floor((i + 0.5)·n / T) without rounding.
    return tuple((2 * i + 1) * count // (2 * frames) for i in range(frames))


def _shown_at(times_s: Sequence[float], points_s: NDArray[np.floating]) -> NDArray[np.int64]:
    # Times that step backwards would break the search: a frame counts as shown no earlier than those before it.
    times = np.maximum.accumulate(np.asarray(times_s, dtype=np.float64))
    return np.clip(np.searchsorted(times, points_s + TICK_S, side="right") - 1, 0, None)


def _end(times_s: Sequence[float]) -> float:
    if len(times_s) == 1:
        return times_s[0]
    return times_s[-1] + (times_s[-1] - times_s[0]) / (len(times_s) - 1)


def _at_least_one(*, count: int, frames: int) -> None:
    if count < 1 or frames < 1:
        raise ValueError(f"expected at least one frame, and at least one asked for, got {count = }, {frames = }")
