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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from service.bundle.manifest import Input, Sampling
from service.errors import DecodeFailed, DecodeLimit, Draining, NotReady
from service.media.frames import Decoded, Windows
from service.media.limits import Limits
from service.media.process import Gone, Worker, epitaph, spawn
from service.media.worker import READY, image, video
from service.priority import Priority

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

GIB = 1 << 30
BOOT_S = 60.0
MAX_FAILED_BOOTS = 3


@dataclass(eq=False, slots=True)
class DecodePool:
    """`size` worker processes behind two methods. Belongs to the event loop, and the thread, that calls `start`.

    A call waits for a free worker without a limit: whoever accepts requests bounds how many wait (see `waiting`). Once it
    runs it has `timeout_s` of wall time and as much processor time. A worker is replaced after `calls_per_worker` calls, so
    that what FFmpeg leaks goes with it.
    """

    size: int = 2
    limits: Limits = field(default_factory=Limits)
    timeout_s: float = 30.0
    memory_bytes: int = 4 * GIB
    calls_per_worker: int = 500
    waiting: int = field(default=0, init=False)
    _workers: set[Worker] = field(default_factory=set, init=False)
    _idle: asyncio.Queue[Worker] = field(default_factory=asyncio.Queue, init=False)
    _boots: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _burials: set[asyncio.Task[int]] = field(default_factory=set, init=False)
    _failed_boots: int = field(default=0, init=False)
    _dead: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _closed: bool = field(default=False, init=False)

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
        return bool(self._workers) and not self._closed and not self._dead.is_set()

    async def start(self) -> None:
        """Start the processes; they import while the caller goes on. Children are fresh interpreters, never forks."""
        for _ in range(self.size - len(self._workers)):
            self._boot()

    async def warm(self) -> None:
        """Return once every worker has started and imported; raises NotReady where none comes up."""
        while self._boots:
            await asyncio.gather(*self._boots)
        if not self.alive:
            raise self._refusal()

    async def image(self, source: bytes | Path, *, spec: Input, priority: Priority = "interactive") -> Decoded:
        """As `decode_image`; a file (spooled upload) is read by the worker."""
        return await self.submit(image, source, spec=spec, limits=self.limits)

    async def video(
        self, source: bytes | Path, *, spec: Input, plan: Sampling | Windows, priority: Priority = "interactive"
    ) -> Decoded:
        """As `decode_video`; a file (spooled upload) is opened by the worker."""
        return await self.submit(video, source, spec=spec, plan=plan, limits=self.limits)

    async def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function` (importable by name) in a worker. Cancelling the call kills the worker that works on it.

        Errors of the tree are raised as they are; a worker that dies or takes too long is DecodeFailed or DecodeLimit.
        """
        worker = await self._free_worker()
        try:
            async with asyncio.timeout(self.timeout_s):
                kind, value = await worker.call((function, args, kwargs))
        except TimeoutError:
            self._replace(worker)
            raise DecodeLimit(
                f"decoding took longer than {self.timeout_s:g} s; send a shorter or smaller file"
            ) from None
        except Gone:
            self._replace(worker)
            if self._closed:
                raise self._refusal() from None
            raise await epitaph(worker.process) from None
        except BaseException:
            self._replace(worker)
            raise
        self._release(worker)
        if kind == "value":
            result: R = value
            return result
        if kind == "error":
            raise value
        name, trace = value
        log.error("decode worker: unexpected %s\n%s", name, trace)
        raise DecodeFailed(f"the file could not be decoded ({name}): it is damaged in a way that was not foreseen")

    async def close(self) -> None:
        """End all workers, and wait until they are gone. Calls that still run fail with Draining."""
        self._closed = True
        self._dead.set()
        for boot in self._boots:
            boot.cancel()
        await asyncio.gather(*self._boots, return_exceptions=True)
        # A call that runs reads the end of its socket, and closes it: closing it here would leave it waiting.
        workers = tuple(self._workers)
        for worker in workers:
            worker.process.kill()
        while not self._idle.empty():
            self._discard(self._idle.get_nowait())
        for worker in workers:
            await asyncio.to_thread(worker.process.wait)
        await asyncio.gather(*self._burials)

    async def _free_worker(self) -> Worker:
        self.waiting += 1
        try:
            while True:
                if not self.alive:
                    raise self._refusal()
                worker = await self._next_idle()
                # One that died while idle (killed from outside) is no fault of the next request.
                if worker is not None and worker.process.poll() is None:
                    return worker
                if worker is not None:
                    log.warning("decode worker %d died while idle; replaced", worker.process.pid)
                    self._replace(worker)
        finally:
            self.waiting -= 1

    async def _next_idle(self) -> Worker | None:
        """The next free worker, or None when the pool died meanwhile: nobody waits for workers that cannot come."""
        # The short way only where it passes nobody who has waited longer.
        if self.waiting == 1 and not self._idle.empty():
            return self._idle.get_nowait()
        get, dead = asyncio.ensure_future(self._idle.get()), asyncio.ensure_future(self._dead.wait())
        try:
            await asyncio.wait({get, dead}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            if get.done() and not get.cancelled():
                self._idle.put_nowait(get.result())
            raise
        finally:
            get.cancel()
            dead.cancel()
        return get.result() if get.done() and not get.cancelled() else None

    def _release(self, worker: Worker) -> None:
        worker.calls += 1
        if worker.calls == self.calls_per_worker:
            # It goes on until its successor has imported everything.
            self._boot(successor_of=worker)
        if worker.retiring or self._closed:
            self._discard(worker)
        else:
            self._idle.put_nowait(worker)

    def _replace(self, worker: Worker) -> None:
        self._discard(worker)
        # Whoever is about to retire has a successor already.
        if not self._closed and len(self._workers) < self.size:
            self._boot()

    def _discard(self, worker: Worker) -> None:
        worker.kill()
        self._workers.discard(worker)
        burial = asyncio.ensure_future(asyncio.to_thread(worker.process.wait))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    def _boot(self, *, successor_of: Worker | None = None) -> None:
        worker = spawn(memory_bytes=self.memory_bytes, cpu_s=self.timeout_s)
        self._workers.add(worker)
        task = asyncio.ensure_future(self._await_ready(worker, successor_of))
        self._boots.add(task)
        task.add_done_callback(self._boots.discard)

    async def _await_ready(self, worker: Worker, predecessor: Worker | None) -> None:
        try:
            async with asyncio.timeout(BOOT_S):
                ready = await worker.receive() == READY
        except (TimeoutError, OSError, ValueError, Gone):
            ready = False
        except BaseException:
            self._discard(worker)
            raise
        if ready:
            self._failed_boots = 0
            if predecessor is not None:
                predecessor.retiring = True
            self._idle.put_nowait(worker)
            return
        self._discard(worker)
        self._failed_boots += 1
        code = await asyncio.to_thread(worker.process.wait)
        log.error("decode worker %d did not start (exit status %d)", worker.process.pid, code)
        if self._failed_boots >= MAX_FAILED_BOOTS:
            self._dead.set()
        elif not self._closed:
            self._boot(successor_of=predecessor)

    def _refusal(self) -> NotReady | Draining:
        if self._closed:
            return Draining("the service is stopping; send the request again", retry_after_s=1.0)
        if self._dead.is_set():
            return NotReady(f"decode workers fail to start, {self._failed_boots} times in a row; see the service's log")
        return NotReady("the decode workers are not started yet; try again", retry_after_s=1.0)
