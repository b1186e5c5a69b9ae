"""The device thread: forms batches while the device is busy, runs them, hands each caller its own rows.

There is no timer: when the device is free, whatever waits is run at once; while it is busy the next batch grows. So a
lone request waits for nothing, and batches grow exactly with the load.
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
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine.base import Engine, Stage
from service.engine.buckets import buckets_for
from service.errors import DeadlineExceeded, Draining, EngineError, MareyError, Overloaded

logger = logging.getLogger(__name__)

T = TypeVar("T")
Priority = Literal["interactive", "bulk"]


@dataclass(frozen=True, slots=True)
class Rows:
    """What one caller gets back: `outputs[name]` has as many rows as it sent; `batch_size` counts the rows that ran together."""

    outputs: dict[str, NDArray[np.float32]]
    batch_size: int
    queue_s: float
    run_s: float


@dataclass(slots=True, eq=False)
class _Entry:
    engine: Engine
    stage: Stage
    rows: NDArray[np.generic]
    deadline: float
    queued: float = field(default_factory=time.monotonic)
    future: Future[Rows] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[int, Stage, tuple[int, ...]]:
        """Entries of one kind can run together: same network, same shape of a row (so heads meet only at equal T)."""
        return id(self.engine), self.stage, self.rows.shape[1:]


@dataclass(slots=True, eq=False)
class _Job:
    run: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class Batcher:
    """Owns one device thread. `start` it before use; `close` fails whatever still waits."""

    def __init__(
        self, *, max_queued_rows: int, name: str = "device", observe: Callable[[Stage, int, float], None] | None = None
    ) -> None:
        self._max_queued_rows = max_queued_rows
        self._observe = observe or (lambda _stage, _rows, _seconds: None)
        self._jobs: deque[_Job] = deque()
        self._queues: dict[Priority, deque[_Entry]] = {"interactive": deque(), "bulk": deque()}
        self._queued_rows = 0
        self._rows_per_s = 0.0
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
        return self._queued_rows

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
        rows: NDArray[np.generic],
        *,
        deadline: float,
        priority: Priority = "interactive",
    ) -> Rows:
        """Send `rows` `[N, …]` through one network; N may exceed the largest batch. `deadline` is in monotonic seconds.

        Raises Overloaded, DeadlineExceeded, Draining or EngineError. Cancelling the caller withdraws what has not begun.
        """
        most = engine.info.max_batch
        chunks = [rows[start : start + most] for start in range(0, len(rows), most)]
        entries = [_Entry(engine, stage, chunk, deadline) for chunk in chunks]
        with self._wake:
            self._refuse_if_closed()
            if self._queued_rows and self._queued_rows + len(rows) > self._max_queued_rows:
                raise Overloaded(
                    f"{self._queued_rows} rows wait for the device, the limit is {self._max_queued_rows}; retry later, or raise MAREY_MAX_QUEUED_ROWS",
                    retry_after_s=self._queued_rows / self._rows_per_s if self._rows_per_s else 1.0,
                )
            self._queues[priority].extend(entries)
            self._queued_rows += len(rows)
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
        if self._closing:
            raise Draining("the service is stopping; send the request to another instance", retry_after_s=1)
        if not self.alive:
            raise EngineError("the device thread has ended; restart the service")

    def _loop(self) -> None:
        try:
            while (work := self._next()) is not None:
                if isinstance(work, _Job):
                    self._run_job(work)
                else:
                    self._run_batch(work)
        finally:  # whatever ended the loop, nobody waits for an answer that cannot come
            with self._wake:
                self._closing = True
                waiting: list[_Entry | _Job] = [*self._jobs, *self._queues["interactive"], *self._queues["bulk"]]
                self._jobs.clear()
                self._queued_rows = 0
                for queue in self._queues.values():
                    queue.clear()
            for left in waiting:
                if left.future.set_running_or_notify_cancel():
                    left.future.set_exception(Draining("the service stopped before this request ran", retry_after_s=1))

    def _next(self) -> list[_Entry] | _Job | None:
        """Wait for work; jobs go first, then the oldest entry of the highest priority with all others of its kind."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._jobs or any(self._queues.values()))
            if self._closing:
                return None
            if self._jobs:
                return self._jobs.popleft()
            first = next(queue[0] for queue in self._queues.values() if queue)
            batch: list[_Entry] = []
            room = first.engine.info.max_batch
            for queue in self._queues.values():
                for entry in list(queue):
                    if entry.kind == first.kind and len(entry.rows) <= room:
                        queue.remove(entry)
                        batch.append(entry)
                        room -= len(entry.rows)
            self._queued_rows -= sum(len(entry.rows) for entry in batch)
            return batch

    @staticmethod
    def _run_job(job: _Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            job.future.set_result(job.run())
        except BaseException as error:  # noqa: BLE001  # the caller waits for it, and raises it where it belongs
            job.future.set_exception(error)

    def _run_batch(self, batch: list[_Entry]) -> None:
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
            return
        rows = np.concatenate([entry.rows for entry in members]) if len(members) > 1 else members[0].rows
        try:
            outputs = self._run_padded(members[0].engine, members[0].stage, rows)
        except BaseException as error:  # every member is answered and the loop lives on
            logger.exception("a batch of %d rows failed in the %s", len(rows), members[0].stage)
            failure = error if isinstance(error, MareyError) else EngineError(f"the {members[0].stage} failed: {error}")
            for entry in members:
                entry.future.set_exception(failure)
            return
        spent = time.monotonic() - began
        self._rows_per_s = 0.8 * self._rows_per_s + 0.2 * len(rows) / spent if self._rows_per_s else len(rows) / spent
        self._observe(members[0].stage, len(rows), spent)
        start = 0
        for entry in members:
            stop = start + len(entry.rows)
            share = {name: array[start:stop] for name, array in outputs.items()}
            entry.future.set_result(Rows(share, len(rows), began - entry.queued, spent))
            start = stop

    @staticmethod
    def _run_padded(engine: Engine, stage: Stage, rows: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
        """The encoder sees only batch sizes that were warmed; the head takes its batch as it is."""
        parts = []
        for start, count, bucket in buckets_for(len(rows)) if stage == "encoder" else [(0, len(rows), len(rows))]:
            chunk = rows[start : start + count]
            if bucket > count:
                chunk = np.concatenate([chunk, np.zeros((bucket - count, *rows.shape[1:]), rows.dtype)])
            outputs = engine.run(stage, chunk)
            for name, array in outputs.items():
                if len(array) != bucket:
                    raise EngineError(f"{engine.info.name} gave {len(array)} rows of {name} for {bucket} rows of input")
            parts.append({name: array[:count] for name, array in outputs.items()})
        return (
            parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        )

