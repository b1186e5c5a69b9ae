"""The device thread: forms batches while the device is busy, runs them, hands each caller its own rows.

There is no timer: when the device is free, whatever waits is run at once; while it is busy the next batch grows. So a
lone request waits for nothing, and batches grow exactly with the load. Once a full batch waits there is nothing to gain by
waiting: where the engine can overlap, it is sent while the one before still computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from service.bundle.manifest import Stage
from service.engine.base import TITLES
from service.errors import DeadlineExceeded, DeviceLost, Draining, EngineError, MareyError, Overloaded
from service.flights import Flight, can_overlap
from service.pace import Line, Pace
from service.priority import Priority
from service.waiting import Entry, Network, Rows, Waiting

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job:
    run: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class Device:
    """One device and its thread, as `Batcher` has it."""

    def __init__(
        self,
        *,
        max_queued_rows: int,
        batch_s: float,
        name: str,
        observe: Callable[[Stage, int, float], None],
        on_lost: Callable[[DeviceLost], None],
    ) -> None:
        self._max_queued_rows = max_queued_rows
        self._on_lost = on_lost
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self.pace: Pace[Network] = Pace()
        self._waiting = Waiting(self.pace, batch_s=batch_s)
        self._flying: tuple[Flight, ...] = ()
        self.queued_rows = 0
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
    def flying_rows(self) -> int:
        return sum(flight.load for flight in self._flying)

    def waiting(self, priority: Priority) -> int:
        """Entries of this priority in the queue."""
        return self._waiting.count(priority)

    def line(self, priority: Priority) -> Line:
        """What a newcomer of this priority finds before it. From any thread, without a lock: it is an estimate."""
        now, running_s = time.monotonic(), 0.0
        for flight in self._flying:
            spent = now - max(flight.began, self._landed)
            running_s += max(0.0, self.pace.seconds(flight.members[0].network, flight.work) - spent)
        return Line(self._waiting.seconds(priority), running_s)

    async def call(self, job: Callable[[], T]) -> T:
        """Run `job` on the device thread, between batches: the place to open, warm and close engines."""
        entry = _Job(job)
        with self._wake:
            self._refuse_if_closed()
            self._jobs.append(entry)
            self._wake.notify()
        result: T = await asyncio.wrap_future(entry.future)
        return result

    def refuse_beyond(self, rows: int) -> None:
        """Raise Overloaded where `rows` more would be too many; whatever there are, where none wait. Or Draining, or EngineError."""
        with self._wake:
            self._refuse_if_closed()
            if self.queued_rows and self.queued_rows + rows > self._max_queued_rows:
                raise Overloaded(
                    f"{self.queued_rows} rows wait for the device, the limit is {self._max_queued_rows}; "
                    "retry later, or raise MAREY_MAX_QUEUED_ROWS",
                    retry_after_s=max(1.0, self._waiting.seconds("bulk")),
                )

    def put(self, entry: Entry) -> None:
        """Let `entry` wait for its turn. Raises Draining or EngineError."""
        with self._wake:
            self._refuse_if_closed()
            entry.queued = time.monotonic()
            self._add(entry)
            self._wake.notify()

    def withdraw(self, entries: Sequence[Entry]) -> None:
        """Nobody awaits these any more: what has not begun never runs."""
        with self._wake:
            for entry in entries:
                if not entry.future.cancel() and not entry.future.cancelled():
                    entry.future.exception()  # of which nobody is told
                if entry in self._waiting:
                    self._take(entry)

    def _refuse_if_closed(self) -> None:
        if self._lost is not None:
            raise DeviceLost(str(self._lost))
        if self._closing:
            raise Draining("the service is stopping; send the request to another instance", retry_after_s=1)
        if not self.alive:
            raise EngineError("the device thread has ended; restart the service")

    def _loop(self) -> None:
        flight: Flight | None = None
        try:
            while True:
                busy = flight is not None
                task = self._next(busy=busy)
                if task is None and not busy:
                    return
                following = self._send(task) if isinstance(task, list) else None
                landing, flight = flight, following
                if landing is not None:
                    self._land(landing)
                if isinstance(task, _Job):
                    self._run_job(task)
        except DeviceLost as error:
            logger.critical("the device thread ends: %s", error)
            self._lost = error
        finally:  # whatever ended the loop, nobody waits for an answer that cannot come
            self._abandon(flight)
            if self._lost is not None:
                self._on_lost(self._lost)

    def _abandon(self, flight: Flight | None) -> None:
        """Fail what waits and what is under way."""
        with self._wake:
            self._closing = True
            jobs, entries = list(self._jobs), list(self._waiting)
            self._jobs.clear()
            for entry in entries:
                self._take(entry)
        failure = self._lost or Draining("the service stopped before this request ran", retry_after_s=1)
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(failure)
        under_way = flight.members if flight is not None else []
        self._answer([(entry, failure) for entry in (*entries, *under_way)])

    def _next(self, *, busy: bool) -> list[Entry] | _Job | None:
        """Wait for work; jobs go first, then the batch whose turn it is.

        While the device is `busy` this does not wait, and gives a batch only if it can grow no more; else None.
        """
        with self._wake:
            if not busy:
                self._wake.wait_for(lambda: self._closing or self._jobs or len(self._waiting))
            if self._closing or (busy and (self._jobs or not len(self._waiting))):
                return None
            if self._jobs:
                return self._jobs.popleft()
            batch, full = self._waiting.fitting()
            if busy and not (full and can_overlap(batch)):
                return None
            for entry in batch:
                self._take(entry)
            return batch

    def _add(self, entry: Entry) -> None:
        self._waiting.add(entry)
        self.queued_rows += entry.load

    def _take(self, entry: Entry) -> None:
        self._waiting.take(entry)
        self.queued_rows -= entry.load

    def _run_job(self, job: _Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            job.future.set_result(job.run())
        except BaseException as error:
            job.future.set_exception(error)  # the caller waits for it, and raises it where it belongs
            if isinstance(error, DeviceLost):
                raise

    def _send(self, batch: list[Entry]) -> Flight | None:
        """Run the batch, or have it under way where the engine can overlap; None where nothing is under way."""
        now = time.monotonic()
        late = [entry for entry in batch if entry.deadline < now]
        self._answer([(entry, too_late()) for entry in late])
        members = [entry for entry in batch if entry not in late]
        if not members:
            return None
        flight = Flight(members, now)
        self._flying = (*self._flying, flight)
        if not can_overlap(members):
            self._land(flight)
            return None
        try:
            flight.begin()
        except BaseException as error:  # noqa: BLE001  # as in _land
            self._fail(flight, error)
            return None
        return flight

    def _land(self, flight: Flight) -> None:
        """Wait for the results and hand each member its rows; every member is answered and the loop lives on."""
        try:
            shares = flight.land()
        except BaseException as error:  # noqa: BLE001  # told to every member, and in the log
            self._fail(flight, error)
            return
        now = time.monotonic()
        spent = now - max(flight.began, self._landed)  # not the time that another batch was before it
        self._landed = now
        first = flight.members[0]
        stage, count = first.stage, flight.rows  # both another below, where a member goes on to the head
        self.pace.note(first.network, units=flight.work, seconds=spent)
        with self._wake:
            self._waiting.ran(flight.members, spent)
        answers: list[tuple[Entry, Rows | BaseException]] = []
        with self._wake:
            for entry, rows in zip(flight.members, shares, strict=True):
                if entry.then is None:
                    answers.append((entry, rows))
                elif not entry.future.cancelled():
                    entry.goes_on(rows)
                    self._add(entry)
        self._gone(flight)  # before anybody is told: who has the answer may ask what is left
        self._answer(answers)
        try:
            self._observe(stage, count, spent)
        except Exception:
            logger.exception("a batch was run, and could not be counted")

    def _fail(self, flight: Flight, error: BaseException) -> None:
        stage = flight.members[0].stage
        logger.error("a batch of %d rows failed in the %s", flight.rows, TITLES[stage], exc_info=error)
        self._gone(flight)
        failure = error if isinstance(error, MareyError) else EngineError(f"the {TITLES[stage]} failed: {error}")
        self._answer([(entry, failure) for entry in flight.members])
        if isinstance(error, DeviceLost):
            raise error

    def _gone(self, flight: Flight) -> None:
        self._flying = tuple(each for each in self._flying if each is not flight)

    @staticmethod
    def _answer(answers: list[tuple[Entry, Rows | BaseException]]) -> None:
        """Tell the callers, each on its own event loop, all of one loop at once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Entry, Rows | BaseException]]] = {}
        for entry, answer in answers:
            by_loop.setdefault(entry.future.get_loop(), []).append((entry, answer))
        for loop, theirs in by_loop.items():
            with contextlib.suppress(RuntimeError):  # a loop that is closed: nobody waits any more
                loop.call_soon_threadsafe(_hand_out, theirs)


def _hand_out(answers: list[tuple[Entry, Rows | BaseException]]) -> None:
    for entry, answer in answers:
        if entry.future.done():  # its caller has gone
            continue
        if isinstance(answer, Rows):
            entry.future.set_result(answer)
        else:
            entry.future.set_exception(answer)


def too_late() -> DeadlineExceeded:
    """For those whose deadline passed before they had their turn, or their answer."""
    return DeadlineExceeded("the deadline passed in the queue; raise timeout_ms, or retry when the load is lower")
