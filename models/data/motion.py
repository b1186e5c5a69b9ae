"""A still image read as a clip: a window of it that moves over the surface, as a camera over a line would see it.

Real pixels, synthetic motion: neither blur nor change of light, which a real line has. The window's pixels are the image's
own, and every one of them then takes the server's way to the network's size, as a frame of a video does.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.data.load import clip_of, is_still, load_clip, load_still
from models.data.sample import Sample
from service.bundle.manifest import Frozen, Input, Sampling
from service.media.frames import Clip

_SHORTEST = 2  # pixels: the video codecs of every day take even sizes only


class Motion(Frozen):
    """`frames` windows, evenly spaced; each as wide (`across`) or as high (`down`) as `window` says, a share of the image.

    `along` moves along the longer side. `snake` shows `window` of both sides, row by row, there and back, so that the whole
    surface is seen. A window's sides are even numbers of pixels.
    """

    frames: int = Field(ge=2, le=1024)
    window: float = Field(default=0.6, gt=0, lt=1)
    path: Literal["across", "down", "along", "snake"] = "along"

    def corners(self, *, width: int, height: int) -> tuple[tuple[int, int, int, int], ...]:
        """(left, top, right, bottom) of each window in an image of `width` × `height` pixels."""
        path = ("across" if width >= height else "down") if self.path == "along" else self.path
        w = _even(width * (self.window if path != "down" else 1.0))
        h = _even(height * (self.window if path != "across" else 1.0))
        x, y = _lanes(self.frames, self.window) if path == "snake" else (np.linspace(0.0, 1.0, self.frames),) * 2
        lefts, tops = np.rint(x * max(0, width - w)).astype(int), np.rint(y * max(0, height - h)).astype(int)
        if path == "across":
            tops = np.zeros_like(tops)
        elif path == "down":
            lefts = np.zeros_like(lefts)
        return tuple((left, top, left + w, top + h) for left, top in zip(lefts.tolist(), tops.tolist(), strict=True))

    def windows(self, picture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """The `frames` windows `[h, w, 3]` of `picture` `[height, width, 3]`."""
        height, width = picture.shape[:2]
        return [picture[t:b, le:r] for le, t, r, b in self.corners(width=width, height=height)]

    def load(self, sample: Sample, *, spec: Input, sampling: Sampling) -> Clip:
        """The frames of `sample` as the network takes them; what is no still image moves by itself. Raises DataError or RequestError."""
        if not is_still(sample.path, sample.key):
            return load_clip(sample.path, key=sample.key, spec=spec, sampling=sampling)
        windows = self.windows(load_still(sample.path, key=sample.key))
        return clip_of(sample.path, windows, spec=spec, sampling=sampling)


def _even(side: float) -> int:
    return max(_SHORTEST, int(side) // 2 * 2)


def _lanes(frames: int, window: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where `frames` windows lie, each from 0 to 1 of the way: lanes across, one below the other, walked there and back.

    As many lanes as cover the surface; on a lane at least two windows, as far as there are frames.
    """
    lanes = max(1, min(int(np.ceil(1 / window - 1e-9)), frames // 2))
    way = np.linspace(0.0, lanes, frames, endpoint=False) + 0.5 * lanes / frames
    lane = way.astype(int)
    within = np.empty(frames)
    for number in range(lanes):
        on = lane == number
        steps = np.linspace(0.0, 1.0, int(on.sum()))
        within[on] = steps if number % 2 == 0 else steps[::-1]
    return within, lane / max(1, lanes - 1)
