"""Which entries run next, without a thread and without a device."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from service.bundle.manifest import Stage
from service.engine.base import EngineInfo
from service.pace import Pace
from service.priority import Priority
from service.waiting import BATCH_S, BULK_SHARE, Entry, Network, Rows, Waiting


class NoEngine:
    """Never run."""

    info = EngineInfo("none", "fp32", "fp32", "none", 64)

    def run(self, stage: Stage, rows: np.ndarray) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def close(self) -> None: ...


ENGINE = NoEngine()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


ROW_S = BATCH_S / 50


class Queue:
    """A queue whose every row takes `row_s` of the device; by default 50 are as many as a batch of several may have."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, row_s: float = ROW_S, batch_s: float = BATCH_S) -> None:
        self.pace: Pace[Network] = Pace()
        for stage in ("encoder", "head"):
            self.pace.note((id(ENGINE), stage), units=1, seconds=row_s)  # type: ignore[arg-type]
        self.waiting = Waiting(self.pace, batch_s=batch_s)
        self._loop = loop

    def add(self, rows: int, priority: Priority = "interactive", *, width: int = 3) -> Entry:
        entry = Entry(ENGINE, "encoder", np.zeros((rows, width)), 0.0, priority, self._loop.create_future())
        self.waiting.add(entry)
        return entry

    def run(self) -> list[Entry]:
        """Take the next batch, as the device thread does, and tell how long it took."""
        batch, _ = self.waiting.fitting()
        for entry in batch:
            self.waiting.take(entry)
        self.waiting.ran(batch, self.pace.seconds(batch[0].network, sum(entry.work for entry in batch)))
        return batch


@pytest.fixture
def queue(loop: asyncio.AbstractEventLoop) -> Queue:
    return Queue(loop)


def test_the_oldest_goes_first_with_all_of_its_kind_that_fit(queue: Queue) -> None:
    first, other, second, large, third = (
        queue.add(n, width=w) for n, w in ((10, 3), (5, 7), (20, 3), (60, 3), (15, 3))
    )
    assert queue.run() == [first, second, third]
    assert queue.run() == [other]
    assert queue.run() == [large], "one entry runs as it is, however long it takes"
    assert not len(queue.waiting)


def test_a_batch_is_full_only_where_nothing_more_can_join(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue(loop, row_s=1e-5)
    queue.add(60)
    assert queue.waiting.fitting()[1] is False
    queue.add(5)
    assert queue.waiting.fitting()[1] is True, "the second has no room"
    queue.run()
    queue.add(59)
    assert queue.waiting.fitting()[1] is True, "64 rows"


def test_whoever_has_been_through_the_encoder_goes_before_newcomers(queue: Queue) -> None:
    begun = queue.add(4)
    begun.then = "head"
    queue.run()
    newcomer = queue.add(4)
    begun.goes_on(Rows({"features": np.ones((4, 9), np.float32)}, 4, 0, 0))
    queue.waiting.add(begun)
    assert (begun.stage, begun.rows.shape, begun.work) == ("head", (1, 4, 9), 4)
    assert queue.run() == [begun]
    assert queue.run() == [newcomer]


def test_a_batch_of_several_stays_short_and_bulk_rides_along_where_there_is_room(queue: Queue) -> None:
    interactive, riders = queue.add(10), [queue.add(16, "bulk") for _ in range(3)]
    assert queue.run() == [interactive, *riders[:2]], "42 rows, 58 would take too long"
    long = [queue.add(30), queue.add(30)]
    assert queue.waiting.fitting() == ([*long[:1], riders[2]], True)
    assert queue.run() == [long[0], riders[2]]
    assert queue.run() == [long[1]]


def test_bulk_by_itself_runs_in_batches_that_keep_nobody_waiting(queue: Queue) -> None:
    entries = [queue.add(16, "bulk") for _ in range(4)]
    assert queue.run() == entries[:3]
    assert queue.run() == entries[3:]


def test_a_single_bulk_entry_longer_than_that_still_runs(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue(loop, row_s=1)
    entries = [queue.add(1, "bulk"), queue.add(1, "bulk")]
    assert [queue.run(), queue.run()] == [entries[:1], entries[1:]]


def test_while_both_wait_bulk_gets_its_share_of_the_time_and_no_more(queue: Queue) -> None:
    spent: dict[Priority, int] = {"interactive": 0, "bulk": 0}
    for _ in range(400):
        while queue.waiting.count("interactive") < 3:
            queue.add(25)
        while queue.waiting.count("bulk") < 3:
            queue.add(16, "bulk", width=5)
        batch = queue.run()
        spent[batch[0].priority] += sum(entry.work for entry in batch)
    assert spent["bulk"] / sum(spent.values()) == pytest.approx(BULK_SHARE, abs=0.03)


def test_what_bulk_is_owed_is_forgotten_once_it_has_nothing_to_run(queue: Queue) -> None:
    gone = queue.add(16, "bulk", width=5)
    for _ in range(4):
        queue.add(30)
        assert gone not in queue.run()
    queue.waiting.take(gone)
    queue.add(30)
    queue.run()
    late, interactive = queue.add(16, "bulk", width=5), queue.add(30)
    assert queue.run() == [interactive]
    assert queue.run() == [late]


def test_the_wait_before_a_newcomer_is_the_work_that_goes_first(queue: Queue) -> None:
    queue.add(10)
    queue.add(30, "bulk")
    assert queue.waiting.seconds("interactive") == pytest.approx(10 * ROW_S)
    assert queue.waiting.seconds("bulk") == pytest.approx(40 * ROW_S)
    while len(queue.waiting):
        queue.run()
    assert queue.waiting.seconds("bulk") == 0


def test_an_entry_can_leave_from_the_middle(queue: Queue) -> None:
    first, second, third = queue.add(1), queue.add(2), queue.add(3)
    queue.waiting.take(second)
    assert second not in queue.waiting
    assert list(queue.waiting) == [first, third]
    assert queue.waiting.seconds("interactive") == pytest.approx(4 * ROW_S)


def test_where_the_queue_has_a_larger_budget_batches_are_longer(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue(loop, batch_s=ROW_S * 40)
    entries = [queue.add(16) for _ in range(3)]
    assert queue.run() == entries[:2]
    queue = Queue(loop, batch_s=1.0)
    entries = [queue.add(16) for _ in range(5)]
    assert queue.run() == entries[:4], "as many as the engine takes"
