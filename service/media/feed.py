"""An encoded stream, decoded while it comes: bytes through a pipe, frames of the grid out. Runs in a worker of its own.

# Note [Never back]
FFmpeg asks a stream of ours where it ends, and may look for an index there. Both are refused with -1, as of a pipe; a Python
error in their place ends the process (OpenCV 5.0.0). Matroska and MPEG-TS are then read in order, and a frame is handed out as
soon as the next one has begun. MP4 in fragments is first read to its end, and then looked for from the start: it cannot be taken.

# Note [No rate to be found]
A browser's recorder does not say how many frames a second it sends. FFmpeg would measure that over five seconds before it gives
the first of them; nobody here asks for it.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Input
from service.errors import UnsupportedMedia
from service.media.capture import DEFAULT_FPS, Capture, Source, no_frame
from service.media.grid import Container, Due, Fresh, Grid
from service.media.limits import Limits
from service.media.preprocess import fit
from service.media.sniff import video_container

CONTAINERS: dict[Container, str] = {"webm": "Matroska/WebM", "mpegts": "MPEG-TS"}

_OPTIONS = "format_whitelist;matroska,webm,mpegts|fpsprobesize;0"

# Three packets of a transport stream: what tells it from anything else.
_HEAD = 3 * 192


class Pipe(Source):
    """The reading end of a pipe, which it takes over, as a source that is read once."""

    def __init__(self, fd: int) -> None:
        super().__init__(b"")
        self._fd = fd
        self._first = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        os.close(self._fd)

    def head(self) -> bytes:
        """Enough of it to know the container; less where it ends before."""
        while len(self._first) < _HEAD and (more := os.read(self._fd, _HEAD)):
            self._first += more
        return self._first

    def holds(self, *_patterns: bytes) -> bool:
        """What has been read is gone."""
        return False

    def stream(self) -> io.BufferedIOBase:
        """To be asked for once, after `head`."""
        self._open.append(stream := _Forward(self._fd, self._first))
        return stream


class _Forward(io.BufferedIOBase):
    """See Note [Never back]."""

    def __init__(self, fd: int, first: bytes) -> None:
        self._fd = fd
        self._first = first
        self._at = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if self._first:
            data, self._first = self._first[:size], self._first[size:]
        else:
            data = os.read(self._fd, size if size is not None and size > 0 else 2**16)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        stays = (whence, offset) in {(0, self._at), (1, 0)}
        return self._at if stays else -1


def decode_feed(
    fd: int, *, container: Container, spec: Input, spacing_s: float, limits: Limits
) -> Iterator[Due[Fresh]]:
    """What comes through the pipe `fd` until it ends; `fd` is then closed.

    Raises UnsupportedMedia, UnsupportedCodec (named), TooManyPixels, DecodeFailed, DecodeLimit.
    """
    with Pipe(fd) as source:
        found = video_container(source.head())
        if found != CONTAINERS[container]:
            raise UnsupportedMedia(
                f"the stream is {found}, and not the {CONTAINERS[container]} that format={container} says"
            )
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = _OPTIONS  # this process opens nothing else
        with Capture(source, container=found) as capture:
            limits.check_pixels(width=capture.width, height=capture.height)
            yield from _frames(capture, container=found, spec=spec, spacing_s=spacing_s)


def _frames(capture: Capture, *, container: str, spec: Input, spacing_s: float) -> Iterator[Due[Fresh]]:
    grid: Grid[tuple[NDArray[np.uint8], float]] = Grid(spacing_s)
    step = 1.0 / (capture.claimed_fps if 0 < capture.claimed_fps <= 120 else DEFAULT_FPS)
    origin, now, count, decode_s = None, 0.0, 0, 0.0
    while True:
        began = time.perf_counter()
        picture = capture.retrieve() if (more := capture.grab()) else None
        decode_s += time.perf_counter() - began
        if more:
            shown = capture.time_s()
            origin = shown if origin is None else origin
            now = shown - origin if shown or not count else now + step  # 0 stands for a frame without a time
            count += 1
        if more and picture is None:
            continue
        due = grid.last(now / max(1, count - 1)) if picture is None else grid.arrive((picture, now), time_s=now)
        for each in due:
            pixels, time_s = each.frame
            begun = time.perf_counter()
            fitted = fit(pixels, spec=spec, order="bgr", pixel_aspect=capture.pixel_aspect)[None]
            yield Due(Fresh(fitted, time_s, decode_s * 1e3, (time.perf_counter() - begun) * 1e3), each.first, each.last)
            decode_s = 0.0
        if not more:
            break
    if not count:
        raise no_frame(capture.codec, container)
