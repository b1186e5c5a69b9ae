"""Frames turned and moved a little, to ask how much of a network's accuracy stands on everything lying straight.

Pixels are interpolated linearly. What comes in from outside repeats the border, as a view in training does: a black wedge
would be an edge that is in no picture, and the network would be judged by that. On MNIST, whose border is black, both are one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Perturbation:
    """By up to `rotate` degrees either way about the centre, and by up to `shift` pixels of the network's input along each axis.

    Both are drawn evenly, once for each clip and so the same for all its frames, from `seed` and the clip's name alone.
    """

    rotate: float = 0.0
    shift: float = 0.0
    seed: int = 0

    def __str__(self) -> str:
        turned = f"turned by up to ±{self.rotate:g}°" if self.rotate else ""
        moved = f"moved by up to ±{self.shift:g} pixels" if self.shift else ""
        return " and ".join(part for part in (turned, moved) if part) or "as they are"

    def draw(self, name: bytes) -> tuple[float, float, float]:
        """Degrees counterclockwise, pixels to the right and pixels down."""
        key = int.from_bytes(hashlib.sha256(name).digest()[:8])
        angle, right, down = np.random.default_rng((self.seed, key)).uniform(-1.0, 1.0, 3)
        return float(angle * self.rotate), float(right * self.shift), float(down * self.shift)

    def apply(self, frames: NDArray[np.uint8], *, name: bytes) -> NDArray[np.uint8]:
        """`frames` `[T, H, W, C]` uint8 of one clip → the same shape, all moved alike."""
        height, width = frames.shape[1:3]
        angle, right, down = self.draw(name)
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
        matrix[:, 2] += (right, down)
        moved = [cv2.warpAffine(frame, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE) for frame in frames]
        return np.stack(moved).reshape(frames.shape)
