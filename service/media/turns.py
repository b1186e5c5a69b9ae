"""Who gets the next free decoder, and how long that will take."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from service.priority import Priority

T = TypeVar("T")

# What a decoder is asked for; `frames` keeps its decoder for as long as a whole video takes.
Kind = Literal["image", "video", "frames", "other"]

# The weight of the newest call in the mean of its kind.
_RECENT = 0.1


@dataclass(frozen=True, slots=True)
class _Call:
    kind: Kind
    priority: Priority
    began: float


@dataclass(eq=False, slots=True)
class _Waiter(Generic[T]):
    kind: Kind
    turn: asyncio.Future[T]


@dataclass(eq=False, slots=True)
class Turns(Generic[T]):
    """`size` decoders (workers, in all that follows) among those who ask: interactive calls first, each priority in its order.

    Bulk calls never have all workers where there are two or more, so that an interactive one never waits for bulk ones to end.
    """

    size: int
    clock: Callable[[], float] = time.monotonic
    _free: deque[T] = field(default_factory=deque, init=False)
    _waiters: dict[Priority, deque[_Waiter[T]]] = field(init=False)
    _running: dict[T, _Call] = field(default_factory=dict, init=False)
    _usual_s: dict[Kind, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._waiters = {"interactive": deque(), "bulk": deque()}

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiters.values()))

    @property
    def running(self) -> int:
        return len(self._running)

    async def take(self, kind: Kind, priority: Priority) -> T:
        """A worker, to be given back by `ended`. Raises what `refuse` says."""
        waiter: _Waiter[T] = _Waiter(kind, asyncio.get_running_loop().create_future())
        self._waiters[priority].append(waiter)
        self._match()
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                worker = waiter.turn.result()  # it came in the moment of giving up
                self._running.pop(worker, None)
                self._free.appendleft(worker)
            elif waiter in self._waiters[priority]:
                self._waiters[priority].remove(waiter)
            self._match()
            raise

    def offer(self, worker: T) -> None:
        """`worker` is there for the next call."""
        self._free.append(worker)
        self._match()

    def ended(self, worker: T, *, well: bool) -> None:
        """The call on `worker` is over; `well`: it counts in the mean of its kind. `offer` it for the next."""
        call = self._running.pop(worker, None)
        if call is not None and well:
            took, before = self.clock() - call.began, self._usual_s.get(call.kind)
            self._usual_s[call.kind] = took if before is None else before + _RECENT * (took - before)
        self._match()

    def recall(self, worker: T) -> bool:
        """Take `worker` back if it is free; whether it was."""
        if worker not in self._free:
            return False
        self._free.remove(worker)
        return True

    def withdraw(self) -> list[T]:
        """All free workers, which are no longer given to anybody."""
        workers = list(self._free)
        self._free.clear()
        return workers

    def refuse(self, reason: Callable[[], Exception]) -> None:
        """Everybody who waits gets an error."""
        for waiters in self._waiters.values():
            while waiters:
                turn = waiters.popleft().turn
                if not turn.done():
                    turn.set_exception(reason())

    def usual_s(self, kind: Kind) -> float:
        """How long a call of this kind has a worker, in the mean of the latest; 0 before the first."""
        return self._usual_s.get(kind, 0.0)

    def waiting_s(self, priority: Priority) -> float:
        """How long the workers have to do with the calls that wait and come before a new one of `priority`; from any thread."""
        before = list(self._waiters["interactive"]) + (list(self._waiters["bulk"]) if priority == "bulk" else [])
        return sum(self.usual_s(waiter.kind) for waiter in before) / max(1, self._workers(priority))

    def running_s(self, priority: Priority) -> float:
        """… and with the calls under way; 0 while a worker is free for `priority`. From any thread."""
        if self._free and self._may(priority):
            return 0.0
        now, workers = self.clock(), self._workers(priority)
        left = [
            max(0.0, self.usual_s(call.kind) - (now - call.began))
            for call in list(self._running.values())
            if call.kind != "frames" or workers <= 0
        ]
        return sum(left) / max(1, workers)

    def _workers(self, priority: Priority) -> int:
        """How many serve calls of `priority` one after the other: those that are not kept by a whole video."""
        kept = sum(call.kind == "frames" for call in list(self._running.values()))
        return (self._most_bulk if priority == "bulk" else self.size) - kept

    @property
    def _most_bulk(self) -> int:
        return max(1, self.size - 1)

    def _may(self, priority: Priority) -> bool:
        bulk = sum(call.priority == "bulk" for call in list(self._running.values()))
        return priority == "interactive" or bulk < self._most_bulk

    def _match(self) -> None:
        for priority, waiters in self._waiters.items():
            while self._free and waiters and self._may(priority):
                waiter = waiters.popleft()
                if waiter.turn.done():
                    continue
                worker = self._free.popleft()
                self._running[worker] = _Call(waiter.kind, priority, self.clock())
                waiter.turn.set_result(worker)
