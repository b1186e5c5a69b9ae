"""The device thread: forms batches while the device is busy, runs them, hands each caller its own rows.

There is no timer: when the device is free, whatever waits is run at once; while it is busy the next batch grows. So a
lone request waits for nothing, and batches grow exactly with the load. Once a full batch waits there is nothing to gain by
waiting: where the engine can overlap, it is sent while the one before still computes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Stage
from service.engine.base import TITLES, Engine, Outputs, Overlapping
from service.engine.buckets import buckets_for
from service.errors import DeadlineExceeded, DeviceLost, Draining, EngineError, MareyError, Overloaded
from service.gathered import Gathered
from service.priority import Priority

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rows:
    """What one caller gets back: `outputs[name]` has as many rows as it sent; `batch_size` counts the rows that ran together."""

    outputs: Outputs
    batch_size: int
    queue_s: float
    run_s: float


@dataclass(slots=True, eq=False)
class _Entry:
    engine: Engine
    stage: Stage
    rows: NDArray[np.generic] | Gathered
    deadline: float
    queued: float = field(default_factory=time.monotonic)
    future: Future[Rows] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[int, Stage, tuple[int, ...]]:
        """Entries of one kind can run together: same network, same shape of a row (so clips meet only at equal T)."""
        return id(self.engine), self.stage, self.rows.shape[1:]

    @property
    def load(self) -> int:
        """What the device has to do: rows, and of a clip network as many as it has frames."""
        return _load(self.stage, self.rows)

    @property
    def array(self) -> NDArray[np.generic]:
        return self.rows.array() if isinstance(self.rows, Gathered) else self.rows


@dataclass(slots=True, eq=False)
class _Flight:
    """Entries that run together; `finish` waits for the results of all their rows."""

    members: list[_Entry]
    began: float
    finish: Callable[[], Outputs]

    @property
    def rows(self) -> int:
        return sum(len(entry.rows) for entry in self.members)

    @property
    def load(self) -> int:
        return sum(entry.load for entry in self.members)


@dataclass(slots=True, eq=False)
class _Job:
    run: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class Batcher:
    """Owns one device thread. `start` it before use; `close` fails whatever still waits.

    `on_lost` is called on that thread, which ends then, after every caller was answered.
    """

    def __init__(
        self,
        *,
        max_queued_rows: int,
        name: str = "device",
        observe: Callable[[Stage, int, float], None] | None = None,
        on_lost: Callable[[DeviceLost], None] = lambda _error: None,
    ) -> None:
        self._max_queued_rows = max_queued_rows
        self._on_lost = on_lost
        self._observe = observe or (lambda _stage, _rows, _seconds: None)
        self._jobs: deque[_Job] = deque()
        self._queues: dict[Priority, deque[_Entry]] = {"interactive": deque(), "bulk": deque()}
        self._queued_rows = 0
        self._flying_rows = 0
        self._rows_per_s = 0.0
        self._landed = 0.0
        self._lost: DeviceLost | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Let the running batch end, fail what waits with Draining, and join the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def queued_rows(self) -> int:
        """Rows that wait; a clip for a clip network counts as its frames."""
        return self._queued_rows

    @property
    def pending_rows(self) -> int:
        """Those that wait and those that run."""
        return self._queued_rows + self._flying_rows

    async def call(self, job: Callable[[], T]) -> T:
        """Run `job` on the device thread, between batches: the place to open, warm and close engines."""
        entry = _Job(job)
        with self._wake:
            self._refuse_if_closed()
            self._jobs.append(entry)
            self._wake.notify()
        result: T = await asyncio.wrap_future(entry.future)
        return result

    async def run(
        self,
        engine: Engine,
        stage: Stage,
        rows: NDArray[np.generic] | Gathered,
        *,
        deadline: float,
        priority: Priority = "interactive",
    ) -> Rows:
        """Send `rows` `[N, …]` through one network; N may exceed the largest batch. `deadline` is in monotonic seconds.

        Rows that are `Gathered` exist only while their batch runs.

        Raises Overloaded, DeadlineExceeded, Draining or EngineError. Cancelling the caller withdraws what has not begun.
        """
        most = engine.info.max_batch
        chunks = [rows[start : start + most] for start in range(0, len(rows), most)]
        entries = [_Entry(engine, stage, chunk, deadline) for chunk in chunks]
        with self._wake:
            self._refuse_if_closed()
            if self._queued_rows and self._queued_rows + _load(stage, rows) > self._max_queued_rows:
                raise Overloaded(
                    f"{self._queued_rows} rows wait for the device, the limit is {self._max_queued_rows}; retry later, or raise MAREY_MAX_QUEUED_ROWS",
                    retry_after_s=self._queued_rows / self._rows_per_s if self._rows_per_s else 1.0,
                )
            self._queues[priority].extend(entries)
            self._queued_rows += _load(stage, rows)
            self._wake.notify()
        parts = await asyncio.gather(*(asyncio.wrap_future(entry.future) for entry in entries))
        if len(parts) == 1:
            return parts[0]
        names = parts[0].outputs
        return Rows(
            {name: np.concatenate([part.outputs[name] for part in parts]) for name in names},
            max(part.batch_size for part in parts),
            parts[0].queue_s,
            sum(part.run_s for part in parts),
        )

    def _refuse_if_closed(self) -> None:
        if self._lost is not None:
            raise DeviceLost(str(self._lost))
        if self._closing:
            raise Draining("the service is stopping; send the request to another instance", retry_after_s=1)
        if not self.alive:
            raise EngineError("the device thread has ended; restart the service")

    def _loop(self) -> None:
        flight: _Flight | None = None
        try:
            while True:
                busy = flight is not None
                work = self._next(busy=busy)
                if work is None and not busy:
                    return
                following = self._send(work) if isinstance(work, list) else None
                landing, flight = flight, following
                if landing is not None:
                    self._land(landing)
                if isinstance(work, _Job):
                    self._run_job(work)
        except DeviceLost as error:
            logger.critical("the device thread ends: %s", error)
            self._lost = error
        finally:  # whatever ended the loop, nobody waits for an answer that cannot come
            self._abandon(flight)
            if self._lost is not None:
                self._on_lost(self._lost)

    def _abandon(self, flight: _Flight | None) -> None:
        """Fail what waits and what is under way."""
        with self._wake:
            self._closing = True
            waiting: list[_Entry | _Job] = [*self._jobs, *self._queues["interactive"], *self._queues["bulk"]]
            self._jobs.clear()
            self._queued_rows = 0
            for queue in self._queues.values():
                queue.clear()
        failure = self._lost or Draining("the service stopped before this request ran", retry_after_s=1)
        for left in waiting:
            if left.future.set_running_or_notify_cancel():
                left.future.set_exception(failure)
        for member in flight.members if flight is not None else ():
            member.future.set_exception(failure)

    def _next(self, *, busy: bool) -> list[_Entry] | _Job | None:
        """Wait for work; jobs go first, then the oldest entry of the highest priority with all others of its kind.

        While the device is `busy` this does not wait, and gives a batch only if it can grow no more; else None.
        """
        with self._wake:
            if not busy:
                self._wake.wait_for(lambda: self._closing or self._jobs or any(self._queues.values()))
            if self._closing or (busy and (self._jobs or not any(self._queues.values()))):
                return None
            if self._jobs:
                return self._jobs.popleft()
            batch, full = self._fitting()
            if busy and not (full and _can_overlap(batch)):
                return None
            for queue in self._queues.values():
                for entry in [entry for entry in queue if entry in batch]:
                    queue.remove(entry)
            self._queued_rows -= sum(entry.load for entry in batch)
            return batch

    def _fitting(self) -> tuple[list[_Entry], bool]:
        """The batch that would run next, and whether one more of its kind had no room in it."""
        first = next(queue[0] for queue in self._queues.values() if queue)
        batch: list[_Entry] = []
        room, full = first.engine.info.max_batch, False
        for queue in self._queues.values():
            for entry in queue:
                if entry.kind != first.kind:
                    continue
                if len(entry.rows) <= room:
                    batch.append(entry)
                    room -= len(entry.rows)
                else:
                    full = True
        return batch, full or room == 0

    def _run_job(self, job: _Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            job.future.set_result(job.run())
        except BaseException as error:
            job.future.set_exception(error)  # the caller waits for it, and raises it where it belongs
            if isinstance(error, DeviceLost):
                raise

    def _send(self, batch: list[_Entry]) -> _Flight | None:
        """Run the batch, or have it under way where the engine can overlap; None where nothing is under way."""
        began = time.monotonic()
        members = []
        for entry in batch:
            if not entry.future.set_running_or_notify_cancel():
                continue
            if entry.deadline < began:
                entry.future.set_exception(
                    DeadlineExceeded(
                        "the deadline passed in the queue; raise timeout_ms, or retry when the load is lower"
                    )
                )
                continue
            members.append(entry)
        if not members:
            return None
        flight = _Flight(members, began, partial(_run, members))
        self._flying_rows += flight.load
        if not _can_overlap(members):
            self._land(flight)
            return None
        try:
            flight.finish = _begin(members)
        except BaseException as error:  # noqa: BLE001  # as in _land
            self._fail(flight, error)
            return None
        return flight

    def _land(self, flight: _Flight) -> None:
        """Wait for the results and hand each member its rows; every member is answered and the loop lives on."""
        try:
            outputs = flight.finish()
            _check(outputs, flight)
            now, start = time.monotonic(), 0
            shares = []
            for entry in flight.members:
                stop = start + len(entry.rows)
                share = {name: array[start:stop] for name, array in outputs.items()}
                shares.append(Rows(share, flight.rows, flight.began - entry.queued, now - flight.began))
                start = stop
        except BaseException as error:  # noqa: BLE001  # told to every member, and in the log
            self._fail(flight, error)
            return
        self._flying_rows -= flight.load  # before anybody is told: who has the answer may ask what is left
        for entry, rows in zip(flight.members, shares, strict=True):
            entry.future.set_result(rows)
        spent = now - max(flight.began, self._landed)  # not the time that another batch was before it
        self._landed = now
        speed = flight.load / max(spent, 1e-6)
        self._rows_per_s = 0.8 * self._rows_per_s + 0.2 * speed if self._rows_per_s else speed
        try:
            self._observe(flight.members[0].stage, flight.rows, spent)
        except Exception:
            logger.exception("a batch was run, and could not be counted")

    def _fail(self, flight: _Flight, error: BaseException) -> None:
        stage = flight.members[0].stage
        logger.error("a batch of %d rows failed in the %s", flight.rows, TITLES[stage], exc_info=error)
        self._flying_rows -= flight.load
        failure = error if isinstance(error, MareyError) else EngineError(f"the {TITLES[stage]} failed: {error}")
        for entry in flight.members:
            entry.future.set_exception(failure)
        if isinstance(error, DeviceLost):
            raise error


def _load(stage: Stage, rows: NDArray[np.generic] | Gathered) -> int:
    return len(rows) * (rows.shape[1] if stage == "clip" else 1)


def _can_overlap(batch: list[_Entry]) -> bool:
    """Whether the engine takes the batch as one, while another is under way."""
    engine, stage, rows = batch[0].engine, batch[0].stage, sum(len(entry.rows) for entry in batch)
    return isinstance(engine, Overlapping) and (stage == "head" or len(list(buckets_for(rows))) == 1)


def _begin(members: list[_Entry]) -> Callable[[], Outputs]:
    first, blocks = members[0], [entry.array for entry in members]
    rows = sum(len(block) for block in blocks)
    bucket = rows if first.stage == "head" else next(buckets_for(rows))[2]
    assert isinstance(first.engine, Overlapping)
    return first.engine.begin(first.stage, blocks, bucket=bucket)


def _run(members: list[_Entry]) -> Outputs:
    """What frames enter sees only batch sizes that were warmed; the head takes its batch as it is."""
    engine, stage = members[0].engine, members[0].stage
    rows = np.concatenate([entry.array for entry in members]) if len(members) > 1 else members[0].array
    if stage == "head" or isinstance(engine, Overlapping):  # which cuts and pads by itself
        return engine.run(stage, rows)
    parts = []
    for start, count, bucket in buckets_for(len(rows)):
        chunk = rows[start : start + count]
        if bucket > count:
            chunk = np.concatenate([chunk, np.zeros((bucket - count, *rows.shape[1:]), rows.dtype)])
        outputs = engine.run(stage, chunk)
        for name, array in outputs.items():
            if len(array) != bucket:
                raise EngineError(f"{engine.info.name} gave {len(array)} rows of {name} for {bucket} rows of input")
        parts.append({name: array[:count] for name, array in outputs.items()})
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check(outputs: Outputs, flight: _Flight) -> None:
    for name, array in outputs.items():
        if len(array) != flight.rows:
            engine = flight.members[0].engine.info.name
            raise EngineError(f"{engine} gave {len(array)} rows of {name} for {flight.rows} rows of input")
