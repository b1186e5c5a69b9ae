"""One decode worker, seen from the service: a fresh interpreter at the other end of a socket."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from service.errors import DecodeFailed, DecodeLimit
from service.media import wire

log = logging.getLogger(__name__)

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
    # A picture's memory is kept for the next: given back to the kernel after each, it costs 420 page faults, a fifth of all that
    # a JPEG of 640×480 costs a worker. Not more than a frame of full HD, or each worker would keep what its largest file took.
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
}


class Gone(Exception):
    """The worker's end of the socket is closed."""


@dataclass(eq=False, slots=True)
class Worker:
    """A process and the socket to it. `relieved`: a successor is starting; `retiring`: it is ready, no further call.

    `told`: all of the last call was sent, so that its answer can still be received by whoever comes after a caller that left.
    """

    process: subprocess.Popen[bytes]
    connection: socket.socket
    calls: int = 0
    relieved: bool = False
    retiring: bool = False
    told: bool = True
    _incoming: wire.Incoming | None = None

    async def call(self, message: object) -> Any:
        """Send and await the reply; raises Gone when the process dies on it."""
        await self.send(message)
        return await self.receive()

    async def send(self, message: object) -> None:
        """Raises Gone when the process has died."""
        self.told = False
        try:
            await self._send(wire.pack(message))
        except ConnectionError as error:
            raise Gone from error
        self.told = True

    async def receive(self) -> Any:
        """The next message, or the rest of one whose receiver was cancelled; raises Gone when the process dies before it."""
        loop = asyncio.get_running_loop()
        incoming = self._incoming = self._incoming or wire.Incoming()
        complete: asyncio.Future[None] = loop.create_future()

        def readable() -> None:
            try:
                if not complete.done() and incoming.read(self.connection):
                    complete.set_result(None)
            except Exception as error:  # noqa: BLE001  # raised where it is awaited
                complete.set_exception(error)

        # One future for a message: the loop's own sock_recv_into takes two turns of the loop for each of its pieces.
        loop.add_reader(self.connection, readable)
        if incoming.complete:  # came in the moment when its receiver was cancelled
            complete.set_result(None)
        try:
            await complete
        except (EOFError, ConnectionError, ValueError):
            raise Gone from None
        finally:
            loop.remove_reader(self.connection)
        self._incoming = None
        return wire.unpack(incoming.parts)

    def kill(self) -> None:
        self.process.kill()
        self.connection.close()

    async def _send(self, parts: list[memoryview]) -> None:
        try:
            sent = self.connection.sendmsg(parts)  # what fits, and that is all of it as a rule
        except BlockingIOError:
            sent = 0
        for part in parts:
            if sent < part.nbytes:
                await asyncio.get_running_loop().sock_sendall(self.connection, part[sent:])
            sent = max(0, sent - part.nbytes)


def spawn(*, memory_bytes: int, cpu_s: float, pass_fds: tuple[int, ...] = ()) -> Worker:
    """Start a worker; it says READY once it has imported everything. It dies with the thread that calls this.

    `pass_fds` are open in it under the same numbers; the caller's own stay the caller's to close.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003 - positional only
    with theirs:
        arguments = (json.dumps(sys.path), theirs.fileno(), os.getpid(), memory_bytes, cpu_s)
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
                pass_fds=(theirs.fileno(), *pass_fds),
                stdin=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT,
                # Out of the terminal's reach from its first instruction on: Ctrl-C is for the parent.
                process_group=0,
            )
        except BaseException:  # no process to be had: the socket must not stay
            ours.close()
            raise
    return Worker(process, ours)


async def epitaph(process: subprocess.Popen[bytes]) -> DecodeFailed:
    """What to tell the client whose file the worker died on."""
    code = await asyncio.to_thread(process.wait)
    if -code == signal.SIGXCPU:
        return DecodeLimit("decoding took more processor time than one upload may; send a shorter or smaller file")
    if -code == signal.SIGKILL:
        return DecodeFailed(
            "the decoder was killed while it worked on this file, for want of memory as a rule; send it again, or smaller"
        )
    log.warning("decode worker %d died with exit status %d", process.pid, code)
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return DecodeFailed(
        f"the decoder broke down on this file ({how}); convert it, for example to H.264 in MP4 or to PNG"
    )
