import math
from fractions import Fraction

import numpy as np
import pytest

from service.media.frames import Windows
from service.media.sample import by_fps, by_windows, grid_points, uniform


@pytest.mark.parametrize("frames", [1, 2, 7, 16, 64])
@pytest.mark.parametrize("count", [1, 2, 3, 15, 16, 17, 108, 3348, 71_999])
def test_uniform_takes_the_middle_of_equal_parts(count: int, frames: int) -> None:
    taken = uniform(count, frames)
    if count < frames:
        assert taken == tuple(range(count))
    else:
        assert taken == tuple(math.floor((i + Fraction(1, 2)) * Fraction(count, frames)) for i in range(frames))
        assert len(set(taken)) == frames
    assert taken == tuple(sorted(taken))
    assert taken[0] >= 0
    assert taken[-1] < count


def test_uniform_is_the_same_from_both_ends_when_parts_have_a_middle() -> None:
    taken = uniform(48, 16)
    assert taken == tuple(47 - i for i in reversed(taken))


@pytest.mark.parametrize(("count", "frames"), [(1, 4), (3, 8), (15, 16)])
def test_a_short_clip_can_be_repeated_to_the_number_of_frames_in_order_of_time(count: int, frames: int) -> None:
    taken = uniform(count, frames, short_clip="repeat")
    assert len(taken) == frames
    assert set(taken) == set(range(count))
    assert list(taken) == sorted(taken)


def test_no_frames_at_all_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        uniform(0, 4)


def test_by_fps_takes_the_frame_shown_at_the_middle_of_each_period() -> None:
    times = [i / 30 for i in range(90)]
    assert by_fps(times, fps=2, max_frames=64) == (7, 22, 37, 52, 67, 82)


def test_by_fps_follows_time_where_the_frame_rate_varies() -> None:
    times = [0.0, 0.01, 0.02, 1.0, 2.0, 2.9]
    assert by_fps(times, fps=1, max_frames=64, duration_s=3.0) == (2, 3, 4)


def test_by_fps_over_its_maximum_still_covers_the_whole_clip() -> None:
    times = [i / 30 for i in range(3000)]
    taken = by_fps(times, fps=10, max_frames=8)
    assert len(taken) == 8
    assert taken[0] < 3000 / 8
    assert taken[-1] > 3000 * 7 / 8


def test_by_fps_above_the_videos_own_rate_takes_each_frame_once() -> None:
    assert by_fps([0.0, 0.1, 0.2, 0.3], fps=60, max_frames=64) == (0, 1, 2, 3)
    assert by_fps([0.0], fps=5, max_frames=64) == (0,)


def test_times_rounded_to_milliseconds_give_the_frames_of_exact_times() -> None:
    exact = [i / 30 for i in range(900)]
    rounded = [round(time, 3) for time in exact]
    plan = Windows(window_s=2.0, stride_s=1.0, frames=15)
    assert by_windows(rounded, plan=plan, duration_s=30.0) == by_windows(exact, plan=plan, duration_s=30.0)


def test_one_window_over_the_whole_clip_sees_the_frames_that_uniform_sees() -> None:
    times = [i / 25 for i in range(100)]
    grid = by_windows(times, plan=Windows(window_s=4.0, stride_s=4.0, frames=16))
    assert grid.indices == uniform(100, 16)
    assert [(w.start_s, w.end_s, w.first, w.count) for w in grid.windows] == [(0.0, 4.0, 0, 16)]


def test_windows_share_frames_and_lie_one_stride_apart() -> None:
    times = [i / 30 for i in range(300)]
    grid = by_windows(times, plan=Windows(window_s=2.0, stride_s=0.5, frames=16))
    assert len(grid.indices) == 80
    assert [w.first for w in grid.windows] == list(range(0, 65, 4))
    assert {w.count for w in grid.windows} == {16}
    assert grid.stride_s == 0.5
    assert grid.windows[-1].end_s == 10.0


@pytest.mark.parametrize(("asked", "used"), [(0.001, 0.125), (0.1, 0.125), (0.2, 0.25), (0.31, 0.25), (0.7, 0.75)])
def test_the_stride_is_rounded_to_the_grid_and_stated(asked: float, used: float) -> None:
    times = [i / 30 for i in range(300)]
    grid = by_windows(times, plan=Windows(window_s=2.0, stride_s=asked, frames=16))
    assert grid.stride_s == used
    assert grid.windows[1].start_s == used


def test_the_last_window_ends_with_the_video() -> None:
    times = [i / 30 for i in range(150)]
    grid = by_windows(times, plan=Windows(window_s=2.0, stride_s=2.0, frames=4))
    assert [(w.start_s, w.end_s) for w in grid.windows] == [(0.0, 2.0), (2.0, 4.0), (3.0, 5.0)]
    assert grid.windows[-1].first + grid.windows[-1].count == len(grid.indices)


def test_a_video_shorter_than_a_window_is_one_window_of_its_own_length() -> None:
    grid = by_windows([i / 30 for i in range(15)], plan=Windows(window_s=2.0, stride_s=1.0, frames=16))
    assert len(grid.windows) == 1
    assert grid.windows[0].count == len(grid.indices) == 15
    assert (grid.windows[0].start_s, grid.windows[0].end_s) == (0.0, 0.5)
    assert by_windows([0.0], plan=Windows(window_s=2.0, stride_s=1.0, frames=16)).indices == (0,)


def test_a_video_slower_than_the_grid_has_each_frame_once_and_windows_that_hold_fewer() -> None:
    grid = by_windows([float(i) for i in range(10)], plan=Windows(window_s=4.0, stride_s=2.0, frames=16))
    assert grid.indices == tuple(range(10))
    assert [(w.first, w.count) for w in grid.windows] == [(0, 4), (2, 4), (4, 4), (6, 4)]


def test_windows_never_leave_the_frames_that_there_are() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        times = np.cumsum(rng.uniform(-0.02, 0.2, rng.integers(1, 200))).tolist()
        plan = Windows(float(rng.uniform(0.1, 5)), float(rng.uniform(0.01, 5)), int(rng.integers(1, 32)))
        end = max(times) + 0.1
        if end <= 0:
            continue
        grid = by_windows(times, plan=plan, duration_s=end)
        assert list(grid.indices) == sorted(set(grid.indices))
        assert grid.indices[0] >= 0
        assert grid.indices[-1] < len(times)
        assert all(1 <= w.count <= plan.frames for w in grid.windows)
        covered = {i for w in grid.windows for i in range(w.first, w.first + w.count)}
        if plan.stride_s <= plan.window_s:
            assert covered == set(range(len(grid.indices)))
        assert grid.windows[-1].first + grid.windows[-1].count == len(grid.indices)
        assert grid_points(end, plan=plan) >= len(grid.indices)
