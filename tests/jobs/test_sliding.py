"""Windows found while a video is decoded are those that are found once all of it is."""

from __future__ import annotations

import numpy as np
import pytest

from service.jobs.sliding import Sliding
from service.media.frames import Window, Windows
from service.media.sample import by_windows, grid_points


def shown_at(times_s: list[float], *, plan: Windows, end: float) -> list[int]:
    """How many points of the grid each frame that is shown at any is shown at."""
    spacing = min(plan.window_s, end) / plan.frames
    points = (np.arange(grid_points(end, plan=plan)) + 0.5) * spacing
    shown = np.clip(np.searchsorted(times_s, points + 1e-3, side="right") - 1, 0, None)
    return [int(count) for count in np.unique(shown, return_counts=True)[1]]


def slid(sliding: Sliding, counts: list[int], end: float) -> tuple[list[Window], set[int]]:
    """All windows, and the frames that were said to be needed before the end."""
    windows, sure = [], set()
    for frame, count in enumerate(counts):
        sure |= {frame} if sliding.sure((count,))[0] else set()
        for window in sliding.add(count):
            assert window.first >= sliding.needed, "it is still there"
            windows.append(window)
    for window in sliding.finish(end):
        assert window.first >= sliding.needed
        windows.append(window)
    return windows, sure


def same(found: list[Window], expected: list[Window]) -> bool:
    return [(w.first, w.count) for w in found] == [(w.first, w.count) for w in expected] and np.allclose(
        [(w.start_s, w.end_s) for w in found], [(w.start_s, w.end_s) for w in expected], atol=1e-9
    )


PLANS = [
    Windows(window_s, stride_s, frames)
    for window_s in (0.3, 2.0, 7.0)
    for stride_s in (0.05, 0.7, 2.0, 9.5)
    for frames in (1, 5, 16)
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_they_are_the_windows_of_the_whole_video(plan: Windows) -> None:
    numbers = np.random.default_rng(PLANS.index(plan))
    for _ in range(12):
        steps = numbers.choice(
            [0.04, 0.04, 0.04, 0.12, 1.5], int(numbers.integers(2, 200)), p=[0.3, 0.3, 0.3, 0.08, 0.02]
        )
        times = [0.0, *np.cumsum(steps).tolist()]
        end = times[-1] + 0.04
        counts = shown_at(times, plan=plan, end=end)
        whole = list(by_windows(times, plan=plan, duration_s=end).windows)
        sliding = Sliding(plan)
        found, sure = slid(sliding, counts, end)
        assert same(found, whole), times
        assert sliding.stride_s(end) == by_windows(times, plan=plan, duration_s=end).stride_s
        regular = {row for w in found[:-1] for row in range(w.first, w.first + w.count)}
        assert regular <= sure, "what a window holds is known to be needed when it comes"
        for done in {1, len(whole) // 2, len(whole) - 1} & set(range(len(whole))):
            assert same(slid(Sliding(plan, done=done), counts, end)[0], whole[done:]), (done, times)


def test_frames_between_windows_are_not_needed() -> None:
    sliding = Sliding(Windows(window_s=1, stride_s=10, frames=2))
    assert [frame for frame, sure in enumerate(sliding.sure([1] * 41)) if sure] == [0, 1, 20, 21, 40]
    assert sliding.sure([15, 10, 1]) == (True, True, False)
    later = Sliding(Windows(window_s=1, stride_s=10, frames=2), done=2)
    assert [frame for frame, sure in enumerate(later.sure([1] * 62)) if sure] == [40, 41, 60, 61]


def test_what_is_remembered_does_not_grow_with_the_video() -> None:
    sliding = Sliding(Windows(window_s=4, stride_s=4, frames=8))
    for frame in range(10_000):
        for _ in sliding.add(1):
            pass
        assert frame - sliding.needed <= 16


def test_the_stride_is_a_multiple_of_the_spacing() -> None:
    assert Sliding(Windows(window_s=1, stride_s=0.6, frames=4)).stride_s(9.0) == 0.5
