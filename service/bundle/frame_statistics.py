"""How bright frames are, and how rich in contrast: measured alike where INT8 is calibrated and where it serves."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

# Pixels of a frame that are measured at most: every k-th of every k-th row. Of 224 × 224 × 3 they take 25 µs, all pixels 155.
PIXELS = 1024
# In tenths, as a histogram of ten bins needs them.
_SHARES = np.linspace(0, 1, 11)

Points = Annotated[
    tuple[Annotated[float, Field(ge=0, le=255, allow_inf_nan=False)], ...], Field(min_length=11, max_length=11)
]


class FrameStatistics(BaseModel):
    """Where calibration frames lay, in grey levels of 0 to 255: the least, the nine inner deciles and the greatest of each measure.

    `brightness` is a frame's mean over its pixels, `contrast` the standard deviation over them; a pixel is the mean of its channels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    brightness: Points
    contrast: Points

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for name, points in (("brightness", self.brightness), ("contrast", self.contrast)):
            if any(low > high for low, high in pairwise(points)):
                raise ValueError(f"{name} is {list(points)}; its points must ascend")
        return self


def measure(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Brightness `[N]` and contrast `[N]` of `frames` `[N, H, W, C]`, N ≥ 1.

    Sums are of integers, and so the same whichever frames are measured together.
    """
    _, height, width, channels = frames.shape
    step = math.ceil(math.sqrt(max(1, height * width / PIXELS)))
    grid = frames[:, ::step, ::step]
    levels = grid[..., 0].astype(np.int64)
    for channel in range(1, channels):
        levels += grid[..., channel]
    levels = levels.reshape(len(frames), -1)
    count = levels.shape[1]
    total, squares = levels.sum(axis=1), np.einsum("np,np->n", levels, levels)
    return total / (count * channels), np.sqrt(count * squares - total**2) / (count * channels)


def statistics_of(frames: NDArray[np.uint8]) -> FrameStatistics:
    """Of calibration `frames` `[N, H, W, C]`, N ≥ 1, as they enter the network."""
    # Values that occur, and not between them: in the order of the shares even by the last digit.
    brightness, contrast = (np.quantile(values, _SHARES, method="nearest").tolist() for values in measure(frames))
    return FrameStatistics(brightness=brightness, contrast=contrast)
