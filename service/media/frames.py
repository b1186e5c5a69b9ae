"""Frames with their times, and what is known of the file they came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """As the file says it: `width` and `height` are those of the stored pixels, `orientation` is the EXIF tag (1 to 8)."""

    width: int
    height: int
    format: str
    orientation: int


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """As decoding found it, not as the header claims. `width`, `height`: of the upright frame, rotation applied."""

    duration_s: float
    fps: float
    width: int
    height: int
    codec: str
    frames_decoded: int
    rotation: int


@dataclass(frozen=True, slots=True)
class Windows:
    """A request: look at a video in windows of `window_s` seconds and `frames` frames, one every `stride_s`."""

    window_s: float
    stride_s: float
    frames: int


@dataclass(frozen=True, slots=True)
class Window:
    """`clip.frames[first : first + count]`, which show the video from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames of one clip, in time's order: `frames[i]` is the decoded frame number `indices[i]`, shown at `times_s[i]`.

    Where windows were asked for, `windows` says which frames belong to each, and `stride_s` is the stride really used.
    Prints shapes, not pixels.
    """

    frames: NDArray[np.uint8]  # [T, H, W, C], RGB or grey
    indices: tuple[int, ...]
    times_s: tuple[float, ...]
    source: ImageInfo | VideoInfo
    warnings: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    stride_s: float | None = None

    def __post_init__(self) -> None:
        if not (self.frames.ndim == 4 and len(self.frames) == len(self.indices) == len(self.times_s) > 0):
            raise ValueError(
                f"expected [T, H, W, C] and T indices and times, got {self.frames.shape = }, {len(self.indices) = }, {len(self.times_s) = }"
            )
        if self.frames.dtype != np.uint8:
            raise ValueError(f"expected uint8 frames, got {self.frames.dtype = }")

    def __repr__(self) -> str:
        return f"Clip(frames={list(self.frames.shape)}, {self.indices[0]}…{self.indices[-1]}, {self.source})"


@dataclass(frozen=True, slots=True)
class Decoded:
    """A clip, and what it cost to make it: bytes to pixels, and pixels to the network's size and colour."""

    clip: Clip
    decode_ms: float
    preprocess_ms: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """The next frames of a video that is decoded in constant memory, in time's order, each shown at `times_s`.

    `points[i]`: how many points of the grid frame i stands for; the points of all frames, counted on, are those of
    `sample.by_windows`. `progress_s`: how far decoding has come, of `claimed_s` by the header (0: it says nothing, and
    it may lie). The last stretch carries `info` and `warnings`.
    """

    frames: NDArray[np.uint8]  # [n, H, W, C], n from 1 to 16
    indices: tuple[int, ...]
    times_s: tuple[float, ...]
    points: tuple[int, ...]
    progress_s: float
    claimed_s: float
    info: VideoInfo | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < len(self.frames) == len(self.indices) == len(self.times_s) == len(self.points):
            raise ValueError(
                f"expected [n, H, W, C] and n indices, times and points, got {self.frames.shape = }, {len(self.indices) = }, "
                f"{len(self.times_s) = }, {len(self.points) = }"
            )

    def __repr__(self) -> str:
        return f"Stretch(frames={list(self.frames.shape)}, {self.indices[0]}…{self.indices[-1]}, {self.progress_s:.3f} s, {self.info})"
