"""Clips of no one's: coloured fields with shapes that move, the same for the same seed, small when compressed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CELLS = 4  # the background is so many fields each way
_SHAPES = 3


def synthetic_clips(*, count: int, frames: int, height: int, width: int, channels: int, seed: int) -> NDArray[np.uint8]:
    """`[count, frames, height, width, channels]` uint8; clips differ in colours, contrast, number and speed of shapes."""
    random = np.random.default_rng(seed)
    return np.stack([_clip(random, frames=frames, height=height, width=width, channels=channels) for _ in range(count)])


def _clip(random: np.random.Generator, *, frames: int, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    contrast, light = random.uniform(0.1, 1.0), random.uniform(0.0, 1.0)
    fields = 255 * (light * (1 - contrast) + contrast * random.random((_CELLS, _CELLS, channels)))
    rows, columns = np.arange(height) * _CELLS // height, np.arange(width) * _CELLS // width
    clip = np.repeat(fields[rows][:, columns].astype(np.uint8)[None], frames, axis=0)
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    for _ in range(random.integers(1, _SHAPES + 1)):
        color = random.integers(0, 256, channels, dtype=np.uint8)
        place, step = random.random(2), random.uniform(-0.15, 0.15, 2)
        size, round_ = random.uniform(0.08, 0.35), random.random() < 0.5
        for index in range(frames):
            dy, dx = (
                np.abs(down - (place[0] + index * step[0]) % 1.0),
                np.abs(across - (place[1] + index * step[1]) % 1.0),
            )
            inside = dy**2 + dx**2 < size**2 if round_ else np.maximum(dy, dx) < size
            clip[index][inside] = color
    return clip
