"""Rounds are interleaved, preparations are not timed, and the figures are those of the runs."""

from __future__ import annotations

import time

import pytest

from service.bench.stopwatch import Task, Timings, measure


def busy(milliseconds: float) -> None:
    """Compute, rather than sleep, for about that long."""
    until = time.perf_counter() + milliseconds / 1000
    while time.perf_counter() < until:
        pass


def test_every_task_has_its_turn_in_every_round_in_changing_order() -> None:
    turns: list[str] = []
    tasks = {name: Task(lambda: busy(1), prepare=lambda name=name: turns.append(name)) for name in "abc"}
    timings = measure(tasks, seconds=0.03, rounds=3)
    assert turns == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]
    assert all(len(each.rounds) == 3 and each.n >= 3 for each in timings.values())


def test_what_prepares_and_settles_and_the_first_run_of_a_turn_are_not_timed() -> None:
    runs = {"left": 0}

    def run() -> None:
        busy(30 if runs["left"] == 0 else 1)
        runs["left"] += 1

    def settle() -> None:
        busy(30)
        runs["left"] = 0

    timings = measure({"task": Task(run, prepare=lambda: busy(30), settle=settle)}, seconds=0.04, rounds=2)
    assert max(timings["task"].rounds[0]) < 25


def test_a_task_longer_than_its_turn_still_runs_once_in_each_round() -> None:
    assert [
        len(part) for part in measure({"slow": Task(lambda: busy(15))}, seconds=0.001, rounds=4)["slow"].rounds
    ] == [1] * 4


def test_warming_runs_the_task_three_times_between_prepare_and_settle() -> None:
    calls: list[str] = []
    Task(lambda: calls.append("run"), lambda: calls.append("prepare"), lambda: calls.append("settle")).warm()
    assert calls == ["prepare", "run", "run", "run", "settle"]


def test_percentiles_are_times_that_were_measured() -> None:
    timings = Timings((tuple(float(each) for each in range(1, 51)), tuple(float(each) for each in range(51, 101))))
    assert [timings.percentile(percent) for percent in (50, 90, 95, 99)] == [50, 90, 95, 99]
    assert (timings.n, timings.mean, timings.least) == (100, 50.5, 1)
    assert Timings(((3.0,), (1.0,), (2.0,))).percentile(99) == 3


def test_noise_is_how_far_the_medians_of_the_rounds_lie_apart() -> None:
    assert Timings(((10.0, 10.0, 99.0), (12.0,), (11.0,))).noise == pytest.approx(2 / 11)


def test_the_ratio_is_taken_within_rounds_so_that_drift_cancels() -> None:
    fast, slow = Timings(((1.0,), (10.0,), (2.0,))), Timings(((3.0,), (30.0,), (6.0,)))
    assert fast.times_as_fast(slow) == pytest.approx(3)
    assert slow.times_as_fast(fast) == pytest.approx(1 / 3)
