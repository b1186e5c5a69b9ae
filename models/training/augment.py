"""One view of a training clip: another window in time, another crop, flip and colour, the same for all its frames.

For activations that are cached: a view is what its seed draws, one clip at a time, rounded to bytes as frames are. Its draws may not
change, or the recipes that were trained on them give other weights; `views` draws whole batches anew in every epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.schedule import Augmentation
from models.training.color import saturated
from service.media.preprocess import scale


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
    flip_vertical: bool = False
    rotation: float = 0.0  # degrees
    translate: tuple[float, float] = (0.0, 0.0)  # down, right
    hidden: tuple[int, int] = (0, 0)  # first, number: frames under the clip's mean

    @classmethod
    def draw(cls, plan: Augmentation, *, frames: int, seed: tuple[int, ...]) -> View:
        """The view that `seed` stands for; `frames` are those that it will have."""
        rng = np.random.default_rng(seed)
        height, width = rng.uniform(plan.crop, 1.0, 2)
        top, left = rng.uniform(0.0, (1.0 - height, 1.0 - width))
        length = rng.uniform(plan.window, 1.0)
        start = rng.uniform(0.0, 1.0 - length)
        offset = float(rng.uniform(0.0, 1.0)) if plan.shift else 0.5
        flip = bool(plan.flip and rng.random() < 0.5)
        brightness = float(rng.uniform(-plan.brightness, plan.brightness))
        contrast = float(1.0 + rng.uniform(-plan.contrast, plan.contrast))
        saturation = float(1.0 + rng.uniform(-plan.saturation, plan.saturation))
        # These came later: drawn last, they leave the views of older recipes as they were.
        down, right = rng.uniform(-plan.translate, plan.translate, 2)
        masked = int(rng.integers(0, int(plan.mask * frames) + 1))
        return cls(
            flip=flip,
            box=(float(top), float(left), float(height), float(width)),
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            window=(float(start), float(length)),
            offset=offset,
            frames=frames,
            translate=(float(down), float(right)),
            hidden=(int(rng.integers(0, frames - masked + 1)), masked),
            rotation=float(rng.uniform(-plan.rotation, plan.rotation)),
            flip_vertical=bool(plan.flip_vertical and rng.random() < 0.5),
        )

    def apply(self, clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`[n, H, W, C]` uint8 → `[frames, H, W, C]` uint8; frames repeat where the window holds fewer than are asked for."""
        chosen = clip[self.times(len(clip))]
        seen = np.stack([self._frame(frame, mean=float(chosen.mean())) for frame in chosen])
        first, count = self.hidden
        if count:
            seen[first : first + count] = np.rint(seen.mean((0, 1, 2))).astype(np.uint8)
        return seen

    def apply_to_map(self, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Numbers of classes `[H, W]`, moved as the frames are; none is made up in between."""
        height, width = classes.shape
        cut = self._box_of(classes[..., None])
        return self._turned(cv2.resize(cut, (width, height), interpolation=cv2.INTER_NEAREST), cv2.INTER_NEAREST)

    def times(self, count: int) -> NDArray[np.int64]:
        """Which of `count` frames the view shows, in their order."""
        start, length = self.window
        positions = (np.arange(self.frames) + self.offset) / self.frames
        return np.minimum(((start + length * positions) * count).astype(np.int64), count - 1)

    def _frame(self, frame: NDArray[np.uint8], *, mean: float) -> NDArray[np.uint8]:
        height, width, channels = frame.shape
        resized = scale(self._box_of(frame), width=width, height=height).reshape(height, width, channels)
        resized = self._turned(resized, cv2.INTER_LINEAR)
        if (self.brightness, self.contrast, self.saturation) == (0.0, 1.0, 1.0):
            return np.ascontiguousarray(resized)
        colors: NDArray[np.floating] = resized.astype(np.float32)
        if channels == 3:
            colors = saturated(colors, self.saturation)
        colors = mean + (colors - mean) * self.contrast + self.brightness * 255.0
        rounded: NDArray[np.uint8] = np.clip(np.rint(colors), 0, 255).astype(np.uint8)
        return rounded

    def _box_of(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width, _ = frame.shape
        top, left, high, wide = self.box
        first_row, first_column = int(top * height), int(left * width)
        rows, columns = max(1, round(high * height)), max(1, round(wide * width))
        return np.ascontiguousarray(frame[first_row : first_row + rows, first_column : first_column + columns])

    def _turned(self, picture: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
        """Mirrored, turned and moved; what comes in from outside repeats the border."""
        if self.flip:
            picture = picture[:, ::-1]
        if self.flip_vertical:
            picture = picture[::-1]
        if self.rotation or any(self.translate):
            height, width = picture.shape[:2]
            matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.rotation, 1.0)
            matrix[:, 2] += self.translate[1] * width, self.translate[0] * height
            warped = cv2.warpAffine(
                np.ascontiguousarray(picture),
                matrix,
                (width, height),
                flags=interpolation,
                borderMode=cv2.BORDER_REPLICATE,
            )
            picture = warped.reshape(picture.shape).astype(np.uint8, copy=False)
        return picture
