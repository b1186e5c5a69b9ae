"""Time several tasks in one run, in turn, so that the machine's drift meets all alike.

# Note [Rounds]
A machine that warms up, throttles or has other tenants is slower for seconds at a time. So the time of a task is cut into
rounds; in each round every task has its turn, in odd rounds in reverse order, so that none always follows the same
neighbour. Ratios are taken within a round, where both had the same machine, and how far the medians of the rounds lie
apart is the noise: a difference below it means nothing.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

# Engines compile, allocate and capture in their first runs: these are never timed.
_WARM_RUNS = 3


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Task:
    """What is timed: `run`, over and over, between `prepare` and `settle`, which are not."""

    run: Callable[[], object]
    prepare: Callable[[], object] = _nothing
    settle: Callable[[], object] = _nothing

    def warm(self) -> None:
        self.prepare()
        try:
            for _ in range(_WARM_RUNS):
                self.run()
        finally:  # what is still under way would be in the way of the next task
            self.settle()


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds of every run, round by round; no round is empty."""

    rounds: tuple[tuple[float, ...], ...]

    @property
    def n(self) -> int:
        return sum(map(len, self.rounds))

    @property
    def mean(self) -> float:
        return fmean(each for part in self.rounds for each in part)

    @property
    def least(self) -> float:
        return min(map(min, self.rounds))

    def percentile(self, percent: int) -> float:
        """By nearest rank: always a time that was measured. With few runs the upper ones are all the largest."""
        ordered = sorted(each for part in self.rounds for each in part)
        return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]

    @property
    def noise(self) -> float:
        """Highest less lowest median of a round, as a share of the median of all."""
        medians = [median(part) for part in self.rounds]
        return (max(medians) - min(medians)) / median(medians)

    def times_as_fast(self, other: Timings) -> float:
        """How many times as fast as `other` this is: the median over the rounds that both ran in."""
        return median(median(theirs) / median(ours) for ours, theirs in zip(self.rounds, other.rounds, strict=True))


def measure(
    tasks: Mapping[K, Task], *, seconds: float, rounds: int, progress: Callable[[int], None] = lambda _round: None
) -> dict[K, Timings]:
    """Run each of `tasks`, all warm, for about `seconds`, in `rounds` rounds, at least once in each.

    The first run of a turn is not counted: until then the caches hold another network's weights, and the idle threads
    of another engine may still spin.
    """
    spent: dict[K, list[tuple[float, ...]]] = {key: [] for key in tasks}
    order = list(tasks)
    with _uncollected():
        for number in range(rounds):
            progress(number)
            for key in reversed(order) if number % 2 else order:
                spent[key].append(_turn(tasks[key], seconds=seconds / rounds))
    return {key: Timings(tuple(parts)) for key, parts in spent.items()}


def _turn(task: Task, *, seconds: float) -> tuple[float, ...]:
    times: list[float] = []
    task.prepare()
    task.run()
    began = before = time.perf_counter()
    while not times or before - began < seconds:
        task.run()
        now = time.perf_counter()
        times.append((now - before) * 1000)
        before = now
    task.settle()
    return tuple(times)


@contextmanager
def _uncollected() -> Iterator[None]:
    """A collection in the middle of a run would be counted as the engine's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
