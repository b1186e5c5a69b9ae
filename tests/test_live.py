"""The window that rolls over a stream: the same frames as a window of a file, and a queue that never grows."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from service.live import Waiting
from service.media.frames import Windows
from service.media.grid import Grid
from service.media.sample import by_windows


def arrivals(times_s: list[float], spacing_s: float) -> list[tuple[int, int, int]]:
    """Frame, first and last point of all that is due while frames of these times come in; each says how long it is shown."""
    grid: Grid[int] = Grid(spacing_s)
    period = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
    ends = [*times_s[1:], times_s[-1] + period]
    due = []
    for number, time_s in enumerate(times_s):
        due += grid.arrive(number, time_s=time_s, duration_s=period if number == len(ends) - 1 else 0.0)
    return [(each.frame, each.first, each.last) for each in due]


@pytest.mark.parametrize("fps", [2, 7.5, 10, 24, 29.97, 30, 50])
@pytest.mark.parametrize(("window_s", "frames"), [(1, 4), (2, 16), (2, 32), (0.5, 5), (3, 7)])
@pytest.mark.parametrize("origin", [0.0, 1_700_000_000.0])
def test_the_frames_of_a_stream_are_those_of_a_files_windows(
    fps: float, window_s: float, frames: int, origin: float
) -> None:
    random = np.random.default_rng(math.floor(fps * 100))
    steps = random.uniform(0.4, 1.6, 150) / fps
    times = np.round(np.concatenate([[0.0], np.cumsum(steps)]), 3)
    end = float(times[-1] + times[-1] / (len(times) - 1))
    plan = Windows(window_s=window_s, stride_s=window_s / frames, frames=frames)
    file = by_windows(times.tolist(), plan=plan, duration_s=end)
    seen = arrivals((times + origin).tolist(), window_s / frames)
    ends = {last: number for number, (_, _, last) in enumerate(seen)}
    compared = 0
    for start, window in enumerate(file.windows):
        if start + frames - 1 not in ends:
            continue  # the frame at its last point is shown at the next one, too: it is judged with that
        newest = ends[start + frames - 1]
        inside = [frame for frame, _, last in seen[: newest + 1] if last >= start]
        assert inside == list(file.indices[window.first : window.first + window.count])
        compared += 1
    assert compared >= min(len(file.windows), len(file.indices)) - frames
    # Each frame once, and every point of the file's grid has its frame.
    assert [frame for frame, _, _ in seen] == sorted({frame for frame, _, _ in seen})
    assert [first for _, first, _ in seen] == [0, *(last + 1 for _, _, last in seen[:-1])]


def test_a_frame_that_says_how_long_it_is_shown_is_due_at_once() -> None:
    grid: Grid[str] = Grid(0.25)
    assert [due.frame for due in grid.arrive("a", time_s=5.0, duration_s=0.25)] == ["a"]
    assert grid.arrive("between", time_s=5.2, duration_s=0.05) == []
    assert [due.frame for due in grid.arrive("b", time_s=5.25, duration_s=0.25)] == ["b"]


def test_after_a_gap_the_old_frame_is_not_seen_again() -> None:
    grid: Grid[str] = Grid(0.25)
    grid.arrive("a", time_s=0, duration_s=0.25)
    (due,) = grid.arrive("b", time_s=1000, duration_s=0.25)
    # Points 1 to 3999 show "a", which has been looked at; "b" begins with the one at 1000.125 s.
    assert (due.frame, due.first, due.last) == ("b", 4000, 4000)


def test_at_the_end_the_last_frame_is_due_once() -> None:
    grid: Grid[str] = Grid(0.25)
    assert grid.end() == []
    grid.arrive("a", time_s=0)
    (due,) = grid.arrive("b", time_s=0.25)
    assert (due.frame, due.first, due.last) == ("a", 0, 0)
    (due,) = grid.end()
    assert (due.frame, due.first, due.last) == ("b", 1, 1)
    assert grid.end() == []
    grid.arrive("c", time_s=0.5, duration_s=0.25)
    assert grid.end() == []  # it was due when it came


def test_a_clock_that_steps_back_neither_ends_nor_repeats_anything() -> None:
    grid: Grid[int] = Grid(0.25)
    due = [each for number, time_s in enumerate([0, 1, 0.5, 0.7, 1.6]) for each in grid.arrive(number, time_s=time_s)]
    assert [(each.frame, each.first, each.last) for each in due] == [(0, 0, 3), (3, 4, 5)]
    grid = Grid(0.25)
    grid.arrive(0, time_s=1, duration_s=0.25)
    (late,) = grid.arrive(1, time_s=0.5, duration_s=0.5)  # counts from the time of the one before
    assert (late.first, late.last) == (1, 1)


async def test_the_oldest_falls_out_of_a_full_queue_and_is_counted() -> None:
    waiting: Waiting[int] = Waiting(3)
    for number in range(10):
        waiting.put(number)
    assert [await waiting.get() for _ in range(3)] == [7, 8, 9]
    assert waiting.dropped == 7


async def test_whoever_waits_is_told_of_the_end() -> None:
    waiting: Waiting[int] = Waiting(3)
    getting = asyncio.create_task(waiting.get())
    await asyncio.sleep(0)  # it waits now
    waiting.close()
    async with asyncio.timeout(5):
        assert await getting is None
