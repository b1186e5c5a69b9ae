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

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Stage
from service.engine.base import TITLES, Engine
from service.engine.buckets import buckets_up_to
from service.errors import DeadlineExceeded, DeviceLost, Draining, EngineError, MareyError, Overloaded
from service.flights import Flight, can_overlap
from service.gathered import Gathered
from service.pace import Line, Pace
from service.priority import Priority
from service.waiting import BATCH_S, Entry, Network, Rows, Waiting, work

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Batches of one request that wait or run at once: one for the device and one to follow it. Those of a long video take
# turns with everybody else's.
_AT_ONCE = 2


@dataclass(slots=True, eq=False)
class _Job:
    run: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class Batcher:
    """Owns one device thread. `start` it before use; `close` fails whatever still waits.

    `batch_s`: how long a batch of several may take, see service/waiting.py. `on_lost` is called on the thread, which ends then,
    after every caller was answered.
    """

    def __init__(
        self,
        *,
        max_queued_rows: int,
        batch_s: float = BATCH_S,
        name: str = "device",
        observe: Callable[[Stage, int, float], None] | None = None,
        on_lost: Callable[[DeviceLost], None] = lambda _error: None,
    ) -> None:
        self._max_queued_rows = max_queued_rows
        self._on_lost = on_lost
        self._observe = observe or (lambda _stage, _rows, _seconds: None)
        self._jobs: deque[_Job] = deque()
        self._pace: Pace[Network] = Pace()
        self._batch_s = batch_s
        self._waiting = Waiting(self._pace, batch_s=batch_s)
        self._flying: tuple[Flight, ...] = ()
        self._queued_rows = 0
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
        """Rows in the queue; a clip for a clip network counts as its frames."""
        return self._queued_rows

    @property
    def pending_rows(self) -> int:
        """Those that wait and those that run."""
        return self._queued_rows + sum(flight.load for flight in self._flying)

    def waiting(self, priority: Priority) -> int:
        """Entries of this priority in the queue."""
        return self._waiting.count(priority)

    def line(self, priority: Priority) -> Line:
        """What a newcomer of this priority finds before it. From any thread, without a lock: it is an estimate."""
        now, running_s = time.monotonic(), 0.0
        for flight in self._flying:
            spent = now - max(flight.began, self._landed)
            running_s += max(0.0, self.seconds(flight.members[0].network, flight.work) - spent)
        return Line(self._waiting.seconds(priority), running_s)

    def seconds(self, network: Network, units: float) -> float:
        """What `units` of `work` take of the device; 0 before the first batch of that network."""
        return self._pace.seconds(network, units)

    async def forget(self, engine: Engine) -> None:
        """`engine` will be asked nothing more. Returns once what it was asked has run, and nothing is known of it."""

        def forgotten() -> None:  # another engine may come to lie where this one did
            for stage in engine.info.stages:
                self._pace.forget((id(engine), stage))

        await self.call(forgotten)

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

        Rows that are `Gathered` exist only while their batch runs. What has not begun at the deadline, or when the caller is
        cancelled, never runs. Raises Overloaded, DeadlineExceeded, Draining or EngineError.
        """
        parts = await self._all(self._chunks(engine, stage, rows, deadline, priority), deadline)
        if len(parts) == 1:
            return parts[0]
        names = parts[0].outputs
        return Rows(
            {name: np.concatenate([part.outputs[name] for part in parts]) for name in names},
            max(part.batch_size for part in parts),
            parts[0].queue_s,
            sum(part.run_s for part in parts),
        )

    async def run_clip(
        self, engine: Engine, frames: NDArray[np.uint8], *, deadline: float, priority: Priority = "interactive"
    ) -> tuple[Rows, Rows]:
        """Send `frames` `[N, …]` of one clip through the encoder, and their features through the head: what each gave; as `run`.

        Where they fit into one batch the head follows on the device thread, before others' turn.
        """
        entries = self._chunks(engine, "encoder", frames, deadline, priority)
        if len(entries) == 1:
            entries[0].then = "head"
            (judged,) = await self._all(entries, deadline)
            assert entries[0].first is not None
            return entries[0].first, judged
        encoded = await self.run(engine, "encoder", frames, deadline=deadline, priority=priority)
        features = encoded.outputs["features"][None]
        return encoded, await self.run(engine, "head", features, deadline=deadline, priority=priority)

    async def _all(self, entries: Sequence[Entry], deadline: float) -> list[Rows]:
        """The rows of each, or none before the deadline."""
        left_s, coming = deadline - time.monotonic(), sum(entry.load for entry in entries[:_AT_ONCE])
        if left_s <= 0:
            raise _too_late()
        with self._wake:
            self._refuse_if_closed()
            if self._queued_rows and self._queued_rows + coming > self._max_queued_rows:
                raise Overloaded(
                    f"{self._queued_rows} rows wait for the device, the limit is {self._max_queued_rows}; retry later, or raise MAREY_MAX_QUEUED_ROWS",
                    retry_after_s=max(1.0, self._waiting.seconds("bulk")),
                )
        try:
            async with asyncio.timeout(left_s):
                return await self._in_turn(entries)
        except TimeoutError:
            raise _too_late() from None

    def _chunks(
        self, engine: Engine, stage: Stage, rows: NDArray[np.generic] | Gathered, deadline: float, priority: Priority
    ) -> list[Entry]:
        """As many rows in each as a batch holds; of bulk as many as keep nobody waiting."""
        most = engine.info.max_batch
        if priority == "bulk":
            a_row = work(stage, rows[:1])
            enough = self._pace.most((id(engine), stage), self._batch_s) / a_row
            most = max([1, *(bucket for bucket in buckets_up_to(most) if bucket <= enough)])
        loop = asyncio.get_running_loop()
        return [
            Entry(engine, stage, rows[start : start + most], deadline, priority, loop.create_future())
            for start in range(0, len(rows), most)
        ]

    async def _in_turn(self, entries: Sequence[Entry]) -> list[Rows]:
        """The rows of each, of which `_AT_ONCE` are in the queue or under way. What has not begun on leaving is withdrawn."""
        parts: list[Rows] = []
        try:
            for number, entry in enumerate(entries):
                if number >= _AT_ONCE:
                    parts.append(await entries[number - _AT_ONCE].future)
                with self._wake:
                    self._refuse_if_closed()
                    entry.queued = time.monotonic()
                    self._add(entry)
                    self._wake.notify()
            parts.extend([await entry.future for entry in entries[len(parts) :]])
        finally:
            with self._wake:
                for entry in entries[len(parts) :]:
                    if not entry.future.cancel() and not entry.future.cancelled():
                        entry.future.exception()  # of which nobody is told
                    if entry in self._waiting:
                        self._take(entry)
        return parts

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
        self._queued_rows += entry.load

    def _take(self, entry: Entry) -> None:
        self._waiting.take(entry)
        self._queued_rows -= entry.load

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
        self._answer([(entry, _too_late()) for entry in late])
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
        self._pace.note(first.network, units=flight.work, seconds=spent)
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
            self._observe(first.stage, flight.rows, spent)
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


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed in the queue; raise timeout_ms, or retry when the load is lower")
