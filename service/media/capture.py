"""OpenCV's VideoCapture over a stream of ours: opened in memory, one thread, frames grabbed in order with their times."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import DecodeFailed, DecodeLimit, UnsupportedCodec, UnsupportedMedia
from service.media.limits import Limits

HEAD = 4096
DEFAULT_FPS = 25.0
_RAW_PACKETS = -1

# FFmpeg's tag of a stream → the codec's usual name.
_CODECS = {
    "h264": "h264", "avc1": "h264", "avc3": "h264", "x264": "h264", "davc": "h264",
    "hevc": "hevc", "hev1": "hevc", "hvc1": "hevc", "h265": "hevc",
    "av01": "av1", "vp80": "vp8", "vp90": "vp9", "vp09": "vp9", "theo": "theora",
    "mpg1": "mpeg1", "mpg2": "mpeg2", "m2v1": "mpeg2", "mp2v": "mpeg2",
    "fmp4": "mpeg4", "mp4v": "mpeg4", "xvid": "mpeg4", "divx": "mpeg4", "dx50": "mpeg4",
    "mjpg": "mjpeg", "jpeg": "mjpeg", "gif ": "gif", "flv1": "flv1", "h263": "h263", "s263": "h263",
    "wmv1": "wmv1", "wmv2": "wmv2", "wmv3": "wmv3", "wvc1": "vc1", "ffv1": "ffv1",
    "apch": "prores", "apcn": "prores", "apcs": "prores", "apco": "prores", "ap4h": "prores", "ap4x": "prores",
    "\0\0\0\0": "rawvideo",
}  # fmt: skip

# What OpenCV's own wheels decode, tried: when nothing comes out of one of these, it is the file that is broken.
DECODABLE = frozenset(_CODECS.values()) - {"av1", "theora"}

# How the containers mark their streams of sound and of pictures.
_TRACKS: dict[str, tuple[tuple[bytes, ...], tuple[bytes, ...]]] = {
    # MP4 leaves a field empty where QuickTime writes "mhlr"; "vide" alone would find "videolan" in what x264 signs.
    "MP4/MOV": ((bytes(8) + b"soun", b"mhlrsoun"), (bytes(8) + b"vide", b"mhlrvide")),
    "Matroska/WebM": ((b"A_",), (b"V_",)),
    "Ogg": ((b"vorbis", b"OpusHead", b"fLaC", b"Speex"), (b"theora", b"BBCD")),
}


class Source:
    """Bytes or a file, as a stream that can be read again and again.

    FFmpeg is never given a name: a name may be an address, a protocol or a pattern.
    """

    def __init__(self, source: bytes | Path) -> None:
        self._source = source
        self._open: list[io.BufferedIOBase] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for stream in self._open:
            stream.close()

    def head(self) -> bytes:
        """The first bytes, or all of a shorter file; none of an empty one."""
        return self.stream().read(HEAD)

    def holds(self, *patterns: bytes) -> bool:
        """Whether any of these bytes occur; reads all of it, and is meant for explaining a failure."""
        data = self.stream().read()
        return any(pattern in data for pattern in patterns)

    def stream(self) -> io.BufferedIOBase:
        """A reader of its own for each caller, from the start; closed with the source."""
        opened = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source.open("rb")
        reader = _Unfailing(opened)
        # OpenCV gives up its reference without holding the interpreter's lock: it must never be the last one.
        self._open.append(reader)
        return reader


class _Unfailing(io.BufferedIOBase):
    """Says -1, as C does, of a place that does not exist: a damaged file asks for some, and a Python error ends the process."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream

    def read(self, size: int | None = -1, /) -> bytes:
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return self._stream.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1

    def close(self) -> None:
        self._stream.close()
        super().close()


class Capture:
    """One pass over the first video stream of a file. Raises UnsupportedMedia (no video in it) or DecodeFailed."""

    def __init__(self, source: Source, *, container: str) -> None:
        # One thread: the workers are as many as there are cores. By default OpenCV turns frames upright, and only it does.
        self._capture = _open(source, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            raise _refusal(source, container)
        self.width = self._size(cv2.CAP_PROP_FRAME_WIDTH)
        self.height = self._size(cv2.CAP_PROP_FRAME_HEIGHT)
        self.codec = _codec(self._number(cv2.CAP_PROP_FOURCC))
        self.rotation = int(self._number(cv2.CAP_PROP_ORIENTATION_META)) % 360
        self.claimed_frames = int(max(0.0, self._number(cv2.CAP_PROP_FRAME_COUNT)))
        fps = self._number(cv2.CAP_PROP_FPS)
        self.claimed_fps = fps if 0.0 < fps <= 1000.0 else 0.0
        self.pixel_aspect = self._pixel_aspect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._capture.release()

    def play(self, *, limits: Limits) -> Iterator[tuple[float, bool]]:
        """Decode all frames in order: when each is shown, in seconds from the first, and whether the file itself says so.

        Raises TooLong once the limits are passed.
        """
        step = 1.0 / (self.claimed_fps or DEFAULT_FPS)
        origin: float | None = None
        last, count = 0.0, 0
        while self.grab():
            shown = self.time_s()
            if origin is None:
                origin = shown
            # FFmpeg hands out the last frames of some streams, and all of a raw one, without a time.
            timed = bool(shown) or not count
            last = shown - origin if timed else last + step
            count += 1
            limits.check_duration(last)
            limits.check_decoded(count)
            yield last, timed

    def grab(self) -> bool:
        """Decode the next frame without converting it to pixels; False at the end, which may be where the file breaks."""
        return bool(self._capture.grab())

    def time_s(self) -> float:
        """When the grabbed frame is shown; 0.0 also stands for a frame without a time."""
        return self._number(cv2.CAP_PROP_POS_MSEC) / 1e3

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The grabbed frame, upright, `[h, w, 3]` BGR; None where the decoder has none. Raises DecodeFailed, DecodeLimit.

        Where a stream changes its size on the way, OpenCV scales what follows to the first frame's.
        """
        try:
            good, picture = self._capture.retrieve()
        except cv2.error as error:
            if error.code == cv2.Error.StsNoMem:
                raise DecodeLimit(
                    f"a frame of {self.width}×{self.height} needs more memory than there is; scale the video down"
                ) from error
            raise DecodeFailed(
                f"a frame cannot be converted to pixels ({error.err}); convert the video to H.264"
            ) from error
        return picture if good else None

    def _number(self, key: int) -> float:
        value = float(self._capture.get(key))
        return value if math.isfinite(value) else 0.0

    def _size(self, key: int) -> int:
        return int(max(0.0, self._number(key)))

    def _pixel_aspect(self) -> float:
        num, den = self._number(cv2.CAP_PROP_SAR_NUM), self._number(cv2.CAP_PROP_SAR_DEN)
        # 0:1 means unknown; beyond 4 it is a damaged header rather than a camera.
        aspect = num / den if num > 0 and den > 0 and 0.25 <= num / den <= 4 else 1.0
        return 1 / aspect if self.rotation in {90, 270} else aspect


@dataclass(frozen=True, slots=True)
class Packets:
    """What reading without decoding shows: compressed frames, and the latest presentation time."""

    count: int
    end_s: float


def count_packets(source: Source, *, limits: Limits) -> Packets:
    """Count the compressed frames, for a tenth of what decoding them costs; stops where the limits are passed."""
    # The format must be given on opening: set later, OpenCV 5.0.0 crashes on some H.264 files.
    capture = _open(source, [cv2.CAP_PROP_FORMAT, _RAW_PACKETS])
    count, first, last = 0, math.inf, 0.0
    while count <= limits.max_decoded_frames and last - min(first, last) <= limits.max_duration_s and capture.grab():
        count += 1
        shown = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3
        first, last = min(first, shown), max(last, shown)
    capture.release()
    return Packets(count, max(0.0, last - min(first, last)))


def no_frame(codec: str, container: str) -> UnsupportedMedia | DecodeFailed:
    """The refusal of a video that opens, and whose frames do not come out."""
    if codec in DECODABLE:
        return DecodeFailed(
            f"the frames of this {codec} video ({container}) cannot be decoded: cut off or damaged; send it again"
        )
    return UnsupportedCodec(
        f"the video's codec is {codec}, which this build cannot decode; convert it to H.264, "
        "for example with: ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"
    )


def _open(source: Source, parameters: list[int]) -> cv2.VideoCapture:
    reader: Any = source.stream()  # OpenCV's annotations ask for a class of its own; any BufferedIOBase works
    try:
        capture = cv2.VideoCapture(reader, cv2.CAP_FFMPEG, parameters)
    except cv2.error as error:
        raise DecodeFailed(
            f"the video cannot be opened ({error.err}); send it again, or convert it to H.264 in MP4"
        ) from error
    return capture


def _codec(tag: float) -> str:
    text = (int(tag) & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1").lower()
    known = _CODECS.get(text)
    if known:
        return known
    return text.strip() if text.isprintable() and text.strip() else f"0x{int(tag) & 0xFFFFFFFF:08x}"


def _refusal(source: Source, container: str) -> UnsupportedMedia | DecodeFailed:
    audio, video = _TRACKS.get(container, ((), ()))
    if audio and source.holds(*audio) and not source.holds(*video):
        return UnsupportedMedia(f"the file ({container}) holds sound but no video; send one with a video stream")
    if container == "MP4/MOV" and not source.holds(b"moov"):
        return DecodeFailed(
            "the MP4 has no index (moov box): its recording or its upload was cut off; send the whole file"
        )
    return DecodeFailed(
        f"the {container} file cannot be opened: damaged, cut off, or without a video stream; send it again"
    )
