"""Windows become segments: by numbers that can be followed by hand, and by rules that hold for any."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
import pytest

from service.media.frames import Windows
from service.media.sample import by_windows
from service.segments import Judged, Merging, Segment, merged, said_by

A, B, C = np.eye(3, dtype=np.float32) * 0.7 + 0.1  # each likeliest in its own class


def windows(*said: np.ndarray, length: float = 2.0, stride: float = 1.0) -> list[Judged]:
    return [Judged(i * stride, i * stride + length, each) for i, each in enumerate(said)]


def spans(segments: Sequence[Segment]) -> list[tuple[float, float, int]]:
    return [(each.start_s, each.end_s, each.windows) for each in segments]


def test_neighbours_with_the_same_likeliest_class_are_one_segment() -> None:
    found = merged(windows(A, A, B, length=1), multi_label=False)
    assert spans(found) == [(0, 2, 2), (2, 3, 1)]


def test_where_windows_overlap_the_border_lies_midway_between_their_centres() -> None:
    # Centres at 1, 2, 3, 4: what changes between the second and the third changes at 2.5.
    found = merged(windows(A, A, B, B), multi_label=False)
    assert spans(found) == [(0, 2.5, 2), (2.5, 5, 2)]


def test_a_class_that_comes_back_is_a_segment_of_its_own() -> None:
    found = merged(windows(A, B, A), multi_label=False)
    assert spans(found) == [(0, 1.5, 1), (1.5, 2.5, 1), (2.5, 4, 1)]


def test_the_probabilities_are_the_mean_over_the_windows() -> None:
    low, high = np.array([0.6, 0.4], np.float32), np.array([0.9, 0.1], np.float32)
    (found,) = merged(windows(low, high, high), multi_label=False)
    assert found.probabilities == pytest.approx([0.8, 0.2], abs=1e-6)
    assert found.probabilities.dtype == np.float32


def test_windows_that_do_not_touch_stay_apart_for_nobody_looked_between_them() -> None:
    found = merged(windows(A, A, B, length=1, stride=3), multi_label=False)
    assert spans(found) == [(0, 1, 1), (3, 4, 1), (6, 7, 1)]


def test_windows_that_meet_but_for_rounding_are_merged() -> None:
    third = 1 / 3
    found = merged([Judged(0, third * 3, A), Judged(1.0000000000000002, 2, A)], multi_label=False)
    assert spans(found) == [(0, 2, 2)]


def test_a_multi_label_models_windows_are_merged_by_the_set_of_classes_above_one_half() -> None:
    both, swapped, one, none = (np.array(p, np.float32) for p in ((0.9, 0.6), (0.6, 0.9), (0.9, 0.5), (0.1, 0.2)))
    found = merged(windows(both, swapped, one, none, none, length=1), multi_label=True)
    assert spans(found) == [(0, 2, 2), (2, 3, 1), (3, 5, 2)]
    assert found[0].probabilities == pytest.approx([0.75, 0.75])
    assert said_by(none, multi_label=True) == ()
    assert len(merged(windows(both, swapped, length=1), multi_label=False)) == 2, "their likeliest classes differ"


def test_without_merging_every_window_is_given_as_it_is() -> None:
    given = windows(A, A, B)
    assert spans(merged(given, multi_label=False, merge=False)) == [(0, 2, 1), (1, 3, 1), (2, 4, 1)]


def test_no_windows_are_no_segments() -> None:
    assert merged([], multi_label=False) == ()


@pytest.mark.parametrize("stride_s", [0.4, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_segments_of_any_video_follow_each_other_and_say_what_their_windows_say(stride_s: float, seed: int) -> None:
    """The last window of a video is moved back, and so overlaps more than the others."""
    numbers = np.random.default_rng(seed)
    times = [i / 25 for i in range(int(numbers.integers(60, 2000)))]
    grid = by_windows(times, plan=Windows(window_s=2, stride_s=stride_s, frames=5))
    rows = numbers.dirichlet(np.ones(2), len(grid.windows)).astype(np.float32)
    judged = [Judged(w.start_s, w.end_s, row) for w, row in zip(grid.windows, rows, strict=True)]
    found = merged(judged, multi_label=False)
    assert sum(each.windows for each in found) == len(judged)
    assert (found[0].start_s, found[-1].end_s) == (judged[0].start_s, judged[-1].end_s)
    assert all(each.start_s < each.end_s for each in found)
    assert all(one.end_s <= two.start_s for one, two in pairwise(found))
    if stride_s <= 2:
        assert all(one.end_s == two.start_s for one, two in pairwise(found)), "nothing is left out"
        runs = [(k, len(list(same))) for k, same in groupby(int(np.argmax(row)) for row in rows)]
        assert [(int(np.argmax(each.probabilities)), each.windows) for each in found] == runs


def test_merging_can_be_put_down_and_taken_up_after_any_window() -> None:
    given = windows(A, A, B, C, C, C, A)
    whole = merged(given, multi_label=False)
    for cut in range(len(given) + 1):
        first = Merging(multi_label=False)
        found = [segment for window in given[:cut] if (segment := first.add(window))]
        second = Merging(multi_label=False, opened=first.opened)
        found += [segment for window in given[cut:] if (segment := second.add(window))]
        last = second.close()
        assert last is not None
        assert spans([*found, last]) == spans(whole), cut
