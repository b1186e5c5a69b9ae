"""The service's side of an encoded stream: a decode worker of its own, fed through a pipe.

A stream's pictures are built on one another, so it needs one decoder from its start to its end; one of the pool's would be
missing there for as long. What it holds is bounded: a full pipe makes who feeds it wait, and a full socket makes it wait.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from service.bundle.manifest import Input
from service.errors import DecodeFailed
from service.media.grid import Container, Due, Fresh
from service.media.limits import Limits
from service.media.process import Gone, Worker, epitaph, spawn
from service.media.worker import feed


class LiveDecoder:
    """`start`, then `write` and iterate over `frames` at the same time; `close` whatever happened. One event loop."""

    def __init__(self, *, limits: Limits, memory_bytes: int, cpu_s: float) -> None:
        """`cpu_s`: processor time from one frame of the grid to the next."""
        self._limits = limits
        # Inherited by the worker, and without a name: whatever ends the service, nothing of it stays on a disk.
        self._theirs, ours = os.pipe()
        try:
            os.set_blocking(ours, False)
            self._worker: Worker = spawn(memory_bytes=memory_bytes, cpu_s=cpu_s, pass_fds=(self._theirs,))
        except BaseException:
            os.close(ours)
            raise
        finally:
            # The worker's alone from here on, so that a write tells when nobody reads any more.
            os.close(self._theirs)
        self._fd: int | None = ours

    async def frames(self, *, container: Container, spec: Input, spacing_s: float) -> AsyncIterator[Due[Fresh]]:
        """The frames of the grid, until the stream ends. Raises as `decode_feed`, and DecodeFailed where the worker dies."""
        worker = self._worker
        call = {"container": container, "spec": spec, "spacing_s": spacing_s, "limits": self._limits}
        try:
            await worker.receive()  # READY: it has imported everything
            await worker.send((feed, (self._theirs,), call))
            while (answer := await worker.receive())[0] == "thing":
                yield answer[1]
        except Gone:
            raise await epitaph(worker.process) from None
        kind, value = answer
        if kind == "error":
            raise value
        if kind == "unexpected":
            raise DecodeFailed(
                f"the stream could not be decoded ({value[0]}): it is damaged in a way that was not foreseen"
            )

    async def write(self, data: bytes) -> None:
        """Hand on what came; waits while the decoder is behind. After `finish`, or its end, nothing is taken."""
        loop, left = asyncio.get_running_loop(), memoryview(data)
        while left and self._fd is not None:
            try:
                left = left[os.write(self._fd, left) :]
            except BrokenPipeError:  # `frames` says why
                return
            except BlockingIOError:
                writable: asyncio.Future[None] = loop.create_future()
                loop.add_writer(self._fd, _resolve, writable)
                try:
                    await writable
                finally:
                    loop.remove_writer(self._fd)

    def finish(self) -> None:
        """Nothing more will come: the decoder gives what it still has, and ends."""
        self._shut()

    async def close(self) -> None:
        """End the worker, and wait until it is gone."""
        self._worker.kill()
        self._shut()
        await asyncio.to_thread(self._worker.process.wait)

    def _shut(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
