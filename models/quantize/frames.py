"""Are calibration frames pictures at all, and like those that will be judged? Ranges from others fit nothing that is served."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from models.errors import DataError
from service.bundle.frame_statistics import measure

# How a pixel goes with the one beside it: handwritten digits of 28 × 28 have 0.80 (the least of 64: 0.46), photographs 0.97, noise 0.00 ± 0.03.
_RELATED = 0.2
_FEW, _HALF = 0.1, 0.5
_LOOKED_AT = 64
# The largest distance between two distributions that is no reason to speak, and how unlikely a larger one must be by chance.
_DISTANCE, _CHANCE = 0.3, 1e-3


def check_pictures(frames: NDArray[np.uint8]) -> list[str]:
    """A sentence where a tenth of `frames` `[N, H, W, C]` are noise, whose pixels have nothing to do with those beside them.

    Raises DataError where half of them are, and where all frames are the same.
    """
    if (frames == frames[0]).all():
        raise DataError(
            f"all {len(frames)} calibration frames are the same: ranges from one picture fit no other; give images or videos like those that will be classified"
        )
    picked = frames[np.unique(np.linspace(0, len(frames) - 1, min(_LOOKED_AT, len(frames))).round().astype(int))]
    found = [value for frame in picked if (value := _related(frame)) is not None]  # one colour says nothing
    noise = sum(value < _RELATED for value in found)
    if noise <= _FEW * len(found):
        return []
    said = (
        f"of {len(found)} calibration frames {noise} are noise, no pictures: beside each other, pixels correlate by less than {_RELATED} "
        "(pictures: 0.5 to 1.0)"
    )
    if noise >= _HALF * len(found):
        raise DataError(
            f"{said}; scales from random data lose accuracy silently: give images or videos like those that will be classified"
        )
    return [f"{said}; take them out, unless such frames will be classified"]


def unlike(calibration: NDArray[np.uint8], judged: NDArray[np.uint8], *, split: str) -> list[str]:
    """A sentence for each of brightness and contrast by which frames of one clip each, `[N, H, W, C]`, differ from those of `split` (Kolmogorov-Smirnov)."""
    told = []
    pairs = zip(("brightness", "contrast"), measure(calibration), measure(judged), strict=True)
    for name, ours, theirs in pairs:
        found = ks_2samp(ours, theirs)
        if found.statistic >= _DISTANCE and found.pvalue < _CHANCE:
            told.append(
                f"the calibration frames differ from those of {split} in {name}: median {np.median(ours):.0f} against {np.median(theirs):.0f} of 255 "
                f"(Kolmogorov-Smirnov distance {found.statistic:.2f}, n = {len(ours)} and {len(theirs)}); calibrate on frames like those that will be served"
            )
    return told


def _related(frame: NDArray[np.uint8]) -> float | None:
    """The correlation of each pixel with its right neighbour, a mean of the channels; None of a frame of one colour."""
    values = frame.astype(np.float64)
    left, right = values[:, :-1].reshape(-1, frame.shape[2]), values[:, 1:].reshape(-1, frame.shape[2])
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    spread = np.sqrt(np.square(left).sum(axis=0) * np.square(right).sum(axis=0))
    alive = spread > 0
    return float(((left * right).sum(axis=0)[alive] / spread[alive]).mean()) if alive.any() else None
