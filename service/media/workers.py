"""The pool of decode workers: a codec that crashes, hangs or eats memory costs one request and one process.

# Note [Why not a library]
`ProcessPoolExecutor` fails every waiting request when one worker dies. Pebble does not, but adds 1 ms to a call under load
and 2 to 4 ms when idle (a JPEG takes 2 ms in all), through five threads and one pipe that all workers share; and like
every user of `multiprocessing` it imports the server's `__main__` into each worker. A socket per worker, read by the event
loop, takes 0.4 ms and 1 ms, and what a worker imports is ours to say.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from service.bundle.manifest import Input, Sampling
from service.errors import DecodeFailed, DecodeLimit, Draining, NotReady
from service.media import wire
from service.media.frames import Decoded, Windows
from service.media.limits import Limits
from service.media.worker import READY, image, video

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

GIB = 1 << 30
BOOT_S = 60.0
MAX_FAILED_BOOTS = 3

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from service.media.worker import main
main(int(sys.argv[2]), parent=int(sys.argv[3]), memory_bytes=int(sys.argv[4]), cpu_s=float(sys.argv[5]))
"""

# FFmpeg's readers that stand behind the containers of `sniff`: a second lock on the door that playlists would open.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,flv,asf,ogg,gif,ivf"
_ENVIRONMENT = {
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": f"format_whitelist;{_FORMATS}",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    "OPENCV_LOG_LEVEL": "SILENT",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class _Gone(Exception):
    """The worker's end of the socket is closed."""


@dataclass(eq=False, slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: socket.socket
    calls: int = 0
    retiring: bool = False

    async def call(self, message: object) -> Any:
        """Send and await the reply; raises _Gone when the process dies on it."""
        loop = asyncio.get_running_loop()
        try:
            for part in wire.pack(message):
                await loop.sock_sendall(self.connection, part)
            return await self.receive()
        except (ConnectionError, ValueError) as error:
            raise _Gone from error

    async def receive(self) -> Any:
        sizes = wire.lengths(await self._exactly(wire.HEADER_BYTES))
        return wire.unpack([await self._exactly(size) for size in sizes])

    def kill(self) -> None:
        self.process.kill()
        self.connection.close()

    async def _exactly(self, size: int) -> bytearray:
        loop = asyncio.get_running_loop()
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = await loop.sock_recv_into(self.connection, view)
            if not got:
                raise _Gone
            view = view[got:]
        return data


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
    _workers: set[_Worker] = field(default_factory=set, init=False)
    _idle: asyncio.Queue[_Worker] = field(default_factory=asyncio.Queue, init=False)
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

    async def image(self, data: bytes, *, spec: Input) -> Decoded:
        """As `decode_image`."""
        return await self.submit(image, data, spec=spec, limits=self.limits)

    async def video(self, source: bytes | Path, *, spec: Input, plan: Sampling | Windows) -> Decoded:
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
        except _Gone:
            self._replace(worker)
            if self._closed:
                raise self._refusal() from None
            raise await _epitaph(worker.process) from None
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

    async def _free_worker(self) -> _Worker:
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

    async def _next_idle(self) -> _Worker | None:
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

    def _release(self, worker: _Worker) -> None:
        worker.calls += 1
        if worker.calls == self.calls_per_worker:
            # It goes on until its successor has imported everything.
            self._boot(successor_of=worker)
        if worker.retiring or self._closed:
            self._discard(worker)
        else:
            self._idle.put_nowait(worker)

    def _replace(self, worker: _Worker) -> None:
        self._discard(worker)
        # Whoever is about to retire has a successor already.
        if not self._closed and len(self._workers) < self.size:
            self._boot()

    def _discard(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.discard(worker)
        burial = asyncio.ensure_future(asyncio.to_thread(worker.process.wait))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    def _boot(self, *, successor_of: _Worker | None = None) -> None:
        worker = _spawn(memory_bytes=self.memory_bytes, cpu_s=self.timeout_s)
        self._workers.add(worker)
        task = asyncio.ensure_future(self._await_ready(worker, successor_of))
        self._boots.add(task)
        task.add_done_callback(self._boots.discard)

    async def _await_ready(self, worker: _Worker, predecessor: _Worker | None) -> None:
        try:
            async with asyncio.timeout(BOOT_S):
                ready = await worker.receive() == READY
        except (TimeoutError, OSError, ValueError, _Gone):
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


def _spawn(*, memory_bytes: int, cpu_s: float) -> _Worker:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003 - positional only
    with theirs:
        arguments = (json.dumps(sys.path), theirs.fileno(), os.getpid(), memory_bytes, cpu_s)
        process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=os.environ | _ENVIRONMENT,
            # Out of the terminal's reach from its first instruction on: Ctrl-C is for the parent.
            process_group=0,
        )
    return _Worker(process, ours)


async def _epitaph(process: subprocess.Popen[bytes]) -> DecodeFailed:
    code = await asyncio.to_thread(process.wait)
    if -code == signal.SIGXCPU:
        return DecodeLimit("decoding took more processor time than one upload may; send a shorter or smaller file")
    log.warning("decode worker %d died with exit status %d", process.pid, code)
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return DecodeFailed(
        f"the decoder broke down on this file ({how}); convert it, for example to H.264 in MP4 or to PNG"
    )
