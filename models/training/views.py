"""Views of many training clips at once, each by numbers of its own: for stages that draw new ones every epoch (`augment` is for those that are cached)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.schedule import Augmentation
from models.training.color import saturated

_DRAWS = 18
_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


def uniforms(keys: NDArray[np.uint64], *, seed: tuple[int, ...], count: int) -> NDArray[np.float64]:
    """`[n, count]` in [0, 1): for each key its own, whatever the others are and wherever it stands (SplitMix64, Steele et al. 2014)."""
    state = np.uint64(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    found = _mix(keys ^ state)[:, None] + steps[None]
    return (_mix(found) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Views:
    """One draw of `plan` for each of n clips; `numbers` `[n, …]` are uniform in [0, 1)."""

    plan: Augmentation
    numbers: NDArray[np.float64]

    @classmethod
    def draw(cls, plan: Augmentation, keys: NDArray[np.uint64], *, seed: tuple[int, ...]) -> Views:
        return cls(plan, uniforms(keys, seed=seed, count=_DRAWS))

    def apply(self, clips: Sequence[NDArray[np.uint8]], *, frames: int) -> NDArray[np.floating]:
        """Clips, n of them, `[m, H, W, C]` uint8 of any m → `[n, frames, H, W, C]` float32 of 0…255."""
        times = self.times([len(clip) for clip in clips], frames=frames)
        chosen = np.stack([clip[row] for clip, row in zip(clips, times, strict=True)])
        return self._masked(self._colored(self._moved(chosen)))

    def apply_to_maps(self, maps: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """Numbers of classes `[H, W]`, moved as the clips' frames are; none is made up in between."""
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        height, width = maps[0].shape
        return [
            cv2.warpAffine(each, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE).astype(np.uint8)
            for each, matrix in zip(maps, self.matrices(height=height, width=width), strict=True)
        ]

    def times(self, counts: Sequence[int], *, frames: int) -> NDArray[np.int64]:
        """`[n, frames]`: which of each clip's frames are shown, in their order."""
        plan, total = self.plan, np.array(counts)[:, None]
        length = 1.0 - (1.0 - plan.window) * self._column(0)
        start = (1.0 - length) * self._column(1)
        offset = self._column(2) if plan.shift else np.full((len(total), 1), 0.5)
        positions = start + length * (np.arange(frames) + offset) / frames
        found: NDArray[np.int64] = np.minimum((positions * total).astype(np.int64), total - 1)
        return found

    def matrices(self, *, height: int, width: int) -> NDArray[np.float64]:
        """`[n, 2, 3]`: from the pixels of a view to those of its clip: mirrored, turned, scaled to the box, moved."""
        plan = self.plan
        high, wide = (1.0 - (1.0 - plan.crop) * self._column(at)[:, 0] for at in (3, 4))
        down = (high / 2 + (1.0 - high) * self._column(5)[:, 0] + plan.translate * self._signed(6)) * height
        right = (wide / 2 + (1.0 - wide) * self._column(7)[:, 0] + plan.translate * self._signed(8)) * width
        angle = np.deg2rad(plan.rotation) * self._signed(9)
        across = np.where(plan.flip & (self._column(10)[:, 0] < 0.5), -1.0, 1.0)
        upright = np.where(plan.flip_vertical & (self._column(11)[:, 0] < 0.5), -1.0, 1.0)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[wide * cos * across, -wide * sin * upright], [high * sin * across, high * cos * upright]])
        center = np.array([(width - 1) / 2, (height - 1) / 2])
        target = np.stack([right, down], 1) - 0.5
        turned = turn.transpose(2, 0, 1)
        return np.concatenate([turned, (target - turned @ center)[..., None]], 2)

    def _moved(self, clips: NDArray[np.uint8]) -> NDArray[np.uint8]:
        plan = self.plan
        height, width = clips.shape[2:4]
        if (plan.crop, plan.rotation, plan.translate) == (1.0, 0.0, 0.0):
            clips = _flipped(clips, self._column(10)[:, 0] < 0.5, axis=2) if plan.flip else clips
            upside_down = self._column(11)[:, 0] < 0.5
            return _flipped(clips, upside_down, axis=1) if plan.flip_vertical else clips
        moved = np.empty_like(clips)
        for number, matrix in enumerate(self.matrices(height=height, width=width)):
            for source, target in zip(clips[number], moved[number], strict=True):
                # What comes in from outside repeats the border: black stays black, and a surface goes on.
                warped = cv2.warpAffine(source, matrix, (width, height), flags=_FLAGS, borderMode=cv2.BORDER_REPLICATE)
                target[...] = warped.reshape(target.shape)
        return moved

    def _colored(self, clips: NDArray[np.uint8]) -> NDArray[np.floating]:
        plan = self.plan
        colors: NDArray[np.floating] = clips.astype(np.float32)
        if not (plan.brightness or plan.contrast or plan.saturation):
            return colors
        mean = colors.mean((1, 2, 3, 4), keepdims=True)
        if plan.saturation and clips.shape[-1] == 3:
            colors = saturated(colors, self._factor(plan.saturation, 12))
        colors -= mean
        colors *= self._factor(plan.contrast, 13)
        colors += mean + (255.0 * plan.brightness * self._signed(14)).astype(np.float32).reshape(-1, 1, 1, 1, 1)
        return np.clip(colors, 0.0, 255.0, out=colors)

    def _masked(self, clips: NDArray[np.floating]) -> NDArray[np.floating]:
        frames = clips.shape[1]
        most = int(self.plan.mask * frames)
        if not most:
            return clips
        hidden = (self._column(15)[:, 0] * (most + 1)).astype(np.int64)
        first = (self._column(16)[:, 0] * (frames - hidden + 1)).astype(np.int64)
        for clip, start, count in zip(clips, first, hidden, strict=True):
            clip[start : start + count] = clip.mean((0, 1, 2))
        return clips

    def _column(self, at: int) -> NDArray[np.float64]:
        return self.numbers[:, at : at + 1]

    def _signed(self, at: int) -> NDArray[np.float64]:
        return 2.0 * self.numbers[:, at] - 1.0

    def _factor(self, share: float, at: int) -> NDArray[np.float32]:
        return (1.0 + share * self._signed(at)).astype(np.float32).reshape(-1, 1, 1, 1, 1)


def _flipped(clips: NDArray[np.uint8], which: NDArray[np.bool_], *, axis: int) -> NDArray[np.uint8]:
    flipped = clips.copy()
    flipped[which] = np.flip(clips[which], axis + 1)
    return flipped
