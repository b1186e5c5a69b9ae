"""The pool of decode workers: a codec that crashes, hangs or eats memory costs one request and one process.

# Note [Why not a library]
`ProcessPoolExecutor` fails every waiting request when one worker dies. Pebble does not, but adds 1 ms to a call under load
and 2 to 4 ms when idle (a JPEG takes 2 ms in all), through five threads and one pipe that all workers share; and like
every user of `multiprocessing` it imports the server's `__main__` into each worker. A socket per worker, read by the event
loop, takes 0.4 ms and 1 ms, and what a worker imports is ours to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from service.bundle.manifest import Input, Sampling
from service.errors import DecodeFailed, DecodeLimit, Draining, NotReady
from service.media.frames import Decoded, Stretch, Windows
from service.media.limits import Limits
from service.media.process import Gone, Worker, epitaph, spawn
from service.media.turns import Kind, Turns
from service.media.worker import READY, frames, image, video
from service.priority import Priority

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

GIB = 1 << 30
BOOT_S = 60.0
MAX_FAILED_BOOTS = 3
LONGEST_PAUSE_S = 60.0
# Processor time that a video in stretches may take in all, in times of the longest that is allowed.
_TIMES_REAL = 2.0


@dataclass(eq=False, slots=True)
class DecodePool:
    """`size` worker processes behind three methods. Belongs to the event loop, and the thread, that calls `start`.

    A call waits for a free worker without a limit: whoever accepts requests bounds how long (see `waiting_s`). Once it runs
    it has `timeout_s` of wall time and as much processor time. A worker is replaced after `calls_per_worker` calls, so that
    what FFmpeg leaks goes with it; `replaced` counts those that died or were killed. Where workers fail to start, the pool is not `alive` and tries again after growing pauses.
    """

    size: int = 2
    limits: Limits = field(default_factory=Limits)
    timeout_s: float = 30.0
    memory_bytes: int = 4 * GIB
    calls_per_worker: int = 500
    grace_s: float = 0.5
    pause_s: float = 1.0
    replaced: int = field(default=0, init=False)
    _turns: Turns[Worker] = field(init=False)
    _workers: set[Worker] = field(default_factory=set, init=False)
    _ready: set[Worker] = field(default_factory=set, init=False)
    _boots: set[asyncio.Task[bool]] = field(default_factory=set, init=False)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set, init=False)
    _failed_boots: int = field(default=0, init=False)
    _revival: asyncio.Task[None] | None = field(default=None, init=False)
    _next_try: float = field(default=0.0, init=False)
    _started: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._turns = Turns(self.size)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def alive(self) -> bool:
        """Whether calls can be answered: started, not closed, and workers come up."""
        return self._started and not self._closed and (bool(self._ready) or self._revival is None)

    @property
    def waiting(self) -> int:
        """Calls without a worker yet."""
        return self._turns.waiting

    @property
    def busy(self) -> int:
        """Workers that decode."""
        return self._turns.running

    def waiting_s(self, priority: Priority) -> float:
        """How long the workers have to do with the calls that wait and come before a new one of `priority`."""
        return self._turns.waiting_s(priority)

    def running_s(self, priority: Priority) -> float:
        """How long until the calls under way have ended, in the mean over the workers; 0 while one is free for `priority`."""
        return self._turns.running_s(priority)

    def expected_wait_s(self, kind: Kind, priority: Priority) -> float:
        """How long until a new call would have its answer, by what its kind took of late; 0 before anything is known."""
        return self.waiting_s(priority) + self.running_s(priority) + self._turns.usual_s(kind)

    async def start(self) -> None:
        """Start the processes; they import while the caller goes on. Children are fresh interpreters, never forks."""
        self._started = True
        self._fill()

    async def warm(self) -> None:
        """Return once every worker has started and imported; raises NotReady where none comes up."""
        while self._boots:
            await asyncio.gather(*self._boots)
        self.check()

    def check(self) -> None:
        """Raise NotReady or Draining, with the reason, unless `alive`."""
        if not self.alive:
            raise self._refusal()

    async def image(self, source: bytes | Path, *, spec: Input, priority: Priority = "interactive") -> Decoded:
        """As `decode_image`; a file (spooled upload) is read by the worker."""
        return await self._call("image", priority, image, source, spec=spec, limits=self.limits)

    async def video(
        self, source: bytes | Path, *, spec: Input, plan: Sampling | Windows, priority: Priority = "interactive"
    ) -> Decoded:
        """As `decode_video`; a file is opened by the worker."""
        return await self._call("video", priority, video, source, spec=spec, plan=plan, limits=self.limits)

    async def frames(
        self,
        source: bytes | Path,
        *,
        spec: Input,
        plan: Windows,
        limits: Limits | None = None,
        priority: Priority = "bulk",
    ) -> AsyncGenerator[Stretch, None]:
        """As `decode_stretches`: decoding goes on while the caller works on a stretch, and waits for it before the one after next.

        `timeout_s` holds for each stretch, and not while the caller is busy. A caller that leaves early closes the iterator
        (`contextlib.aclosing`), which ends the worker; nothing else tells that nobody will read on.
        """
        limits = limits or self.limits
        cpu_s = self.timeout_s + _TIMES_REAL * limits.max_duration_s
        arguments = {"spec": spec, "plan": plan, "limits": limits, "cpu_s": cpu_s}
        worker = await self._take("frames", priority)
        kind, value = "thing", None
        try:
            await self._within(worker, worker.send((frames, (source,), arguments)))
            while kind == "thing":
                kind, value = await self._within(worker, worker.receive())
                if kind == "thing" and value is not None:
                    yield value
        finally:
            if kind == "thing":
                self._replace(worker)
            else:
                self._release(worker)
        _value(kind, value)

    async def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function` (importable by name) in a worker.

        Cancelling the call leaves its worker `grace_s` to end it, and kills it then. Errors of the tree are raised as they
        are; a worker that dies or takes too long is DecodeFailed or DecodeLimit.
        """
        return await self._call("other", "interactive", function, *args, **kwargs)

    async def _call(
        self, kind: Kind, priority: Priority, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        worker = await self._take(kind, priority)
        try:
            answer = await self._within(worker, worker.call((function, args, kwargs)))
        except asyncio.CancelledError:
            self._keep(self._outlive(worker))
            raise
        except BaseException:
            self._replace(worker)
            raise
        self._release(worker)
        result: R = _value(*answer)
        return result

    async def close(self) -> None:
        """End all workers, and wait until they are gone. Calls that still run fail with Draining."""
        self._closed = True
        self._turns.refuse(self._refusal)
        for task in (*self._boots, *filter(None, [self._revival])):
            task.cancel()
        await asyncio.gather(*self._boots, *filter(None, [self._revival]), return_exceptions=True)
        # A call that runs reads the end of its socket, and closes it: closing it here would leave it waiting.
        workers = tuple(self._workers)
        for worker in workers:
            worker.process.kill()
        # Those that wait for a call, and those that were still starting.
        for worker in (*self._turns.withdraw(), *(self._workers - self._ready)):
            self._discard(worker)
        for worker in workers:
            await asyncio.to_thread(worker.process.wait)
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def _take(self, kind: Kind, priority: Priority) -> Worker:
        while True:
            self.check()
            worker = await self._turns.take(kind, priority)
            # One that died while idle (killed from outside) is no fault of the next request.
            if worker.process.poll() is None:
                return worker
            log.warning("decode worker %d died while idle; replaced", worker.process.pid)
            self._replace(worker)

    async def _within(self, worker: Worker, doing: Awaitable[R]) -> R:
        """Raises DecodeLimit after `timeout_s`, DecodeFailed or Draining where the worker dies meanwhile."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await doing
        except TimeoutError:
            raise DecodeLimit(
                f"decoding took longer than {self.timeout_s:g} s; send a shorter or smaller file"
            ) from None
        except Gone:
            if self._closed:
                raise self._refusal() from None
            raise await epitaph(worker.process) from None

    async def _outlive(self, worker: Worker) -> None:
        """Nobody waits for the answer any more; a worker that gives it soon need not be started anew."""
        ended = False
        if worker.told:
            with suppress(TimeoutError, Gone):
                async with asyncio.timeout(self.grace_s):
                    await worker.receive()
                    ended = True
        if ended:
            self._release(worker)
        else:
            self._replace(worker)

    def _release(self, worker: Worker) -> None:
        worker.calls += 1
        self._turns.ended(worker, well=True)
        if worker.calls >= self.calls_per_worker and not worker.relieved and self.alive and self._revival is None:
            # It goes on until its successor has imported everything.
            worker.relieved = True
            self._boot(successor_of=worker)
        if worker.retiring or self._closed:
            self._discard(worker)
        else:
            self._turns.offer(worker)

    def _replace(self, worker: Worker) -> None:
        self.replaced += 1
        self._discard(worker)
        # Whoever is about to retire has a successor already.
        if self._revival is None:
            self._fill()

    def _discard(self, worker: Worker) -> None:
        worker.kill()
        self._turns.ended(worker, well=False)
        self._workers.discard(worker)
        self._ready.discard(worker)
        self._keep(asyncio.to_thread(worker.process.wait))
        if not self.alive:
            self._turns.refuse(self._refusal)

    def _fill(self) -> None:
        while not self._closed and len(self._workers) < self.size:
            self._boot()

    def _boot(self, *, successor_of: Worker | None = None) -> asyncio.Task[bool]:
        """The task's result is whether a worker came up."""
        worker = spawn(memory_bytes=self.memory_bytes, cpu_s=self.timeout_s)
        self._workers.add(worker)
        task = asyncio.ensure_future(self._await_ready(worker, successor_of))
        self._boots.add(task)
        task.add_done_callback(self._boots.discard)
        return task

    async def _await_ready(self, worker: Worker, predecessor: Worker | None) -> bool:
        try:
            async with asyncio.timeout(BOOT_S):
                ready = await worker.receive() == READY
        except (TimeoutError, OSError, Gone):
            ready = False
        except BaseException:
            self._discard(worker)
            raise
        if ready:
            self._failed_boots = 0
            self._ready.add(worker)
            if predecessor is not None:
                predecessor.retiring = True
                if self._turns.recall(predecessor):
                    self._discard(predecessor)
            self._turns.offer(worker)
            return True
        self._discard(worker)
        self._failed_boots += 1
        if predecessor is not None:
            predecessor.relieved = False
        code = await asyncio.to_thread(worker.process.wait)
        log.error("decode worker %d did not start (exit status %d)", worker.process.pid, code)
        if self._failed_boots >= MAX_FAILED_BOOTS and self._revival is None and not self._closed:
            self._revival = asyncio.ensure_future(self._revive())
            if not self.alive:
                self._turns.refuse(self._refusal)
        elif self._revival is None:
            self._fill()
        return False

    async def _revive(self) -> None:
        """Start one worker, after pauses that grow, until one comes up; then the others."""
        pause_s = self.pause_s
        while True:
            self._next_try = time.monotonic() + pause_s
            log.error("decode workers fail to start; the next is started in %g s", pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
            if await self._boot():
                break
        log.warning("decode workers start again")
        self._revival = None
        self._fill()

    def _keep(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refusal(self) -> NotReady | Draining:
        if self._closed:
            return Draining("the service is stopping; send the request again", retry_after_s=1.0)
        if self._started:
            wait_s = max(1.0, self._next_try - time.monotonic())
            return NotReady(
                f"decode workers fail to start, {self._failed_boots} times in a row, and are tried again in {wait_s:.0f} s; "
                "see the service's log",
                retry_after_s=wait_s,
            )
        return NotReady("the decode workers are not started yet; try again", retry_after_s=1.0)


def _value(kind: str, value: Any) -> Any:
    """What the worker answered, or the error that it met."""
    if kind == "value":
        return value
    if kind == "error":
        raise value
    name, trace = value
    log.error("decode worker: unexpected %s\n%s", name, trace)
    raise DecodeFailed(f"the file could not be decoded ({name}): it is damaged in a way that was not foreseen")
