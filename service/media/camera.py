"""A camera, read in a worker of its own: pictures at the spacing of a model's grid, as they come, as JPEG."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import cv2

from service.errors import DecodeFailed
from service.media.address import Shot, anonymous, is_address
from service.media.grid import Grid

_OPEN_MS, _READ_MS = 10_000, 5_000
_QUALITY = 90
# What a network sees is far smaller; a camera's 4K would be most of what goes over the wire.
_MAX_SIDE = 1280


def shots(source: str, *, spacing_s: float) -> Iterator[Shot]:
    """Pictures until the camera breaks off, which ends them. Raises DecodeFailed where there is none at all.

    The clock is that of arrival: what a camera says of the time is its own affair.
    """
    capture, taken, began = _open(source), 0, time.monotonic()
    grid: Grid[float] = Grid(spacing_s)
    try:
        while capture.grab():
            now = time.monotonic() - began
            if not grid.arrive(now, time_s=now, duration_s=spacing_s):
                continue
            good, picture = capture.retrieve()
            if not good:
                continue
            height, width = picture.shape[:2]
            if (factor := _MAX_SIDE / max(height, width)) < 1:
                size = (max(1, round(width * factor)), max(1, round(height * factor)))
                picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            good, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
            taken += 1
            yield Shot(jpeg.tobytes(), now, spacing_s)
    finally:
        capture.release()
    if not taken:
        raise DecodeFailed(f"{anonymous(source)} gives no picture; see whether another program uses it, or shows it")


def _open(source: str) -> cv2.VideoCapture:
    if is_address(source):
        # The decoders of uploads may open containers only; who names an address here wants what is there.
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        remedy = "check the address, the password and the network"
    else:
        capture = cv2.VideoCapture(int(source.partition(":")[2] or 0), cv2.CAP_V4L2)
        remedy = "see whether it is plugged in, and whether you may read /dev/video*"
    if not capture.isOpened():
        raise DecodeFailed(f"{anonymous(source)} cannot be opened; {remedy}")
    return capture
