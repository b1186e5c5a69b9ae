"""What names a camera or another source that is watched, and how it may be shown."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

STDIN = "-"
WEBCAM = "webcam"
SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https")


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture as JPEG; it stands for `duration_s` from `time_s` on, in seconds since the first."""

    jpeg: bytes
    time_s: float
    duration_s: float


def is_camera(source: str) -> bool:
    """Whether `source` names a camera, and not a file: `webcam`, `webcam:1`, or an address."""
    name, _, number = source.partition(":")
    return (name == WEBCAM and (not number or number.isdecimal())) or is_address(source)


def is_live(source: str) -> bool:
    """Whether `source` is watched, and not read as a file: a camera, or stdin."""
    return source == STDIN or is_camera(source)


def is_address(source: str) -> bool:
    return "://" in source and source.partition("://")[0].lower() in SCHEMES


def anonymous(source: str) -> str:
    """An address without the name and password in it, and without its query, which may hold a token."""
    if not is_address(source):
        return source
    parts = urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
