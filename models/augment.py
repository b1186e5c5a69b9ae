"""Views of a training clip: another window in time, another crop, flip and colour, the same for all its frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.schedule import Augmentation
from service.media.preprocess import scale

# Grey of an RGB picture, as ITU-R BT.601 and OpenCV weigh it.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, slots=True)
class View:
    """One draw of the augmentation. Box, window and offset are shares of the frame's size and the clip's length."""

    flip: bool
    box: tuple[float, float, float, float]  # top, left, height, width
    brightness: float  # added, of the full range
    contrast: float  # factor about the clip's mean
    saturation: float  # factor about grey
    window: tuple[float, float]  # start, length
    offset: float  # where in its part of the window each frame lies: one for all, so that they stay evenly spaced
    frames: int

    @classmethod
    def draw(cls, plan: Augmentation, *, frames: int, seed: tuple[int, ...]) -> View:
        """The view that `seed` stands for; `frames` are those that it will have."""
        rng = np.random.default_rng(seed)
        height, width = rng.uniform(plan.crop, 1.0, 2)
        top, left = rng.uniform(0.0, (1.0 - height, 1.0 - width))
        length = rng.uniform(plan.window, 1.0)
        start = rng.uniform(0.0, 1.0 - length)
        offset = float(rng.uniform(0.0, 1.0)) if plan.shift else 0.5
        return cls(
            flip=bool(plan.flip and rng.random() < 0.5),
            box=(float(top), float(left), float(height), float(width)),
            brightness=float(rng.uniform(-plan.brightness, plan.brightness)),
            contrast=float(1.0 + rng.uniform(-plan.contrast, plan.contrast)),
            saturation=float(1.0 + rng.uniform(-plan.saturation, plan.saturation)),
            window=(float(start), float(length)),
            offset=offset,
            frames=frames,
        )

    def apply(self, clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`[n, H, W, C]` uint8 → `[frames, H, W, C]` uint8; frames repeat where the window holds fewer than are asked for."""
        chosen = clip[self.times(len(clip))]
        return np.stack([self._frame(frame, mean=float(chosen.mean())) for frame in chosen])

    def times(self, count: int) -> NDArray[np.int64]:
        """Which of `count` frames the view shows, in their order."""
        start, length = self.window
        positions = (np.arange(self.frames) + self.offset) / self.frames
        return np.minimum(((start + length * positions) * count).astype(np.int64), count - 1)

    def _frame(self, frame: NDArray[np.uint8], *, mean: float) -> NDArray[np.uint8]:
        height, width, channels = frame.shape
        top, left, high, wide = self.box
        first_row, first_column = int(top * height), int(left * width)
        rows, columns = max(1, round(high * height)), max(1, round(wide * width))
        cut = np.ascontiguousarray(frame[first_row : first_row + rows, first_column : first_column + columns])
        resized = scale(cut, width=width, height=height).reshape(height, width, channels)
        if self.flip:
            resized = resized[:, ::-1]
        if (self.brightness, self.contrast, self.saturation) == (0.0, 1.0, 1.0):
            return np.ascontiguousarray(resized)
        colors: NDArray[np.floating] = resized.astype(np.float32)
        if channels == 3:
            grey = (colors @ _LUMA)[..., None]
            colors = grey + (colors - grey) * self.saturation
        colors = mean + (colors - mean) * self.contrast + self.brightness * 255.0
        rounded: NDArray[np.uint8] = np.clip(np.rint(colors), 0, 255).astype(np.uint8)
        return rounded
