"""A decode worker: a process of its own that answers calls until its pipe closes, and dies with its parent.

Started as a fresh interpreter by `service.media.workers`; imports OpenCV and Pillow, and nothing of the server.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from service.bundle.manifest import Input, Sampling
from service.errors import DecodeLimit, MareyError
from service.media import wire
from service.media.address import Shot
from service.media.frames import Decoded, Stretch, Windows
from service.media.grid import Container, Due, Fresh
from service.media.limits import Limits

READY = "ready"
END = "end"
_PR_SET_PDEATHSIG = 1

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def main(fd: int, *, parent: int, memory_bytes: int, cpu_s: float) -> None:
    """Serve `fd`, a connected socket. `memory_bytes` bounds the address space, `cpu_s` the processor time of each answer."""
    _die_with(parent)
    # The parent decides when a worker ends: on Ctrl-C or SIGTERM it first answers what it has accepted.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _warm_up()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # After the imports: OpenBLAS and friends reserve address space that they never touch.
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    _fall_silent()
    with socket.socket(fileno=fd) as connection:
        _send(connection, READY)
        while (call := _receive(connection)) is not None:
            _serve(connection, call, cpu_s=cpu_s)


def image(source: bytes | Path, *, spec: Input, limits: Limits) -> Decoded:
    """`decode_image`, imported where it runs: the server itself needs no OpenCV."""
    from service.media.image import decode_image  # noqa: PLC0415

    data = source.read_bytes() if isinstance(source, Path) else source
    return decode_image(data, spec=spec, limits=limits)


def video(source: bytes | Path, *, spec: Input, plan: Sampling | Windows, limits: Limits) -> Decoded:
    """`decode_video`, likewise."""
    from service.media.decode import decode_video  # noqa: PLC0415

    return decode_video(source, spec=spec, plan=plan, limits=limits)


def frames(
    source: bytes | Path, *, spec: Input, plan: Windows, limits: Limits, cpu_s: float
) -> Iterator[Stretch | None]:
    """`decode_stretches`, likewise."""
    from service.media.stretches import decode_stretches  # noqa: PLC0415

    return decode_stretches(source, spec=spec, plan=plan, limits=limits, cpu_s=cpu_s)


def feed(fd: int, *, container: Container, spec: Input, spacing_s: float, limits: Limits) -> Iterator[Due[Fresh]]:
    """`decode_feed`, likewise."""
    from service.media.feed import decode_feed  # noqa: PLC0415

    return decode_feed(fd, container=container, spec=spec, spacing_s=spacing_s, limits=limits)


def shots(source: str, *, spacing_s: float) -> Iterator[Shot]:
    """`camera.shots`, likewise; in the worker of a client, not of the service."""
    from service.media import camera  # noqa: PLC0415

    return camera.shots(source, spacing_s=spacing_s)


def _serve(connection: socket.socket, call: Call, *, cpu_s: float) -> None:
    """Answer once, or of a function that gives things one after the other, with each of them and then with the end.

    A full socket holds up the next of them: what nobody reads is not decoded.
    """
    _limit_cpu(cpu_s)
    kind, value = _answer(*call)
    if kind == "value" and isinstance(value, Iterator):
        things = value
        kind, value = _answer(next, (things, END), {})
        while kind == "value" and value is not END:
            _send(connection, ("thing", value))
            _limit_cpu(cpu_s)
            kind, value = _answer(next, (things, END), {})
    _send(connection, (kind, value))


def _answer(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "value", function(*args, **kwargs)
    except MareyError as error:
        return "error", error.with_traceback(None)
    except MemoryError:
        return "error", DecodeLimit(
            "decoding needs more memory than one upload may take; scale the file down, or cut it"
        )
    except Exception as error:  # noqa: BLE001 - whatever a hostile file brings about must not end the worker
        return "unexpected", (type(error).__name__, traceback.format_exc())


def _die_with(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        sys.exit(1)


def _fall_silent() -> None:
    """libjpeg, libtiff and Pillow comment on damaged files: whoever uploads one would write to the service's log."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())


def _warm_up() -> None:
    import cv2  # noqa: PLC0415 - the imports are what is being paid here, before the first request
    import numpy as np  # noqa: PLC0415

    from service.media import decode  # noqa: F401, PLC0415

    cv2.setNumThreads(1)
    _, picture = cv2.imencode(".jpg", np.zeros((32, 32, 3), np.uint8))
    image(picture.tobytes(), spec=Input(height=16, width=16), limits=Limits())


def _limit_cpu(seconds: float) -> None:
    # RLIMIT_CPU counts from the start of the process: each call gets its own allowance on top of what was used.
    usage = resource.getrusage(resource.RUSAGE_SELF)
    allowance = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (allowance, resource.RLIM_INFINITY))


def _send(connection: socket.socket, message: object) -> None:
    parts = wire.pack(message)
    sent = connection.sendmsg(parts)
    for part in parts:  # a signal may have cut it short
        if sent < part.nbytes:
            connection.sendall(part[sent:])
        sent = max(0, sent - part.nbytes)


def _receive(connection: socket.socket) -> Any:
    """The next call, or None where the service is gone."""
    incoming = wire.Incoming()
    try:
        incoming.read(connection)
    except EOFError:
        return None
    return wire.unpack(incoming.parts)
