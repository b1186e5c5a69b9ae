"""What the steps of `Input.preprocess` do to a resized frame, in the decode worker: the same in training, calibration and serving."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Input
from service.bundle.pixel_steps import Clahe, Denoise, PixelStep, Vessels, pixel_steps

Picture = NDArray[np.uint8]

_CHANNELS = {"red": slice(0, 1), "green": slice(1, 2), "blue": slice(2, 3), "all": slice(0, 3)}


def apply_steps(picture: Picture, *, spec: Input) -> Picture:
    """`[H, W, C]` uint8, RGB or grey → the same shape, through the steps of `spec` in order. Raises BundleError."""
    for step in pixel_steps(spec):
        picture = _APPLY[type(step)](np.ascontiguousarray(picture), step)
    return picture


def _denoise(picture: Picture, step: Denoise) -> Picture:
    cleaned: Picture = cv2.medianBlur(picture, step.kernel)
    return cleaned.reshape(picture.shape)  # OpenCV drops the axis of a single channel


def _clahe(picture: Picture, step: Clahe) -> Picture:
    if picture.shape[2] == 1:
        return _equalised(picture[..., 0], step.clip_limit, step.tiles)[..., None]
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    lab[..., 0] = _equalised(np.ascontiguousarray(lab[..., 0]), step.clip_limit, step.tiles)
    colored: Picture = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return colored


def _vessels(picture: Picture, step: Vessels) -> Picture:
    green: Picture = np.ascontiguousarray(picture[..., picture.shape[2] // 2])
    if step.clip_limit:
        green = _equalised(green, step.clip_limit, step.tiles)
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (step.kernel, step.kernel))
    lines = cv2.morphologyEx(green, cv2.MORPH_BLACKHAT, ellipse)
    mask = cv2.threshold(lines, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    changed = picture.copy()
    changed[..., _CHANNELS[step.replaces]] = mask[..., None]
    return changed


def _equalised(grey: Picture, clip_limit: float, tiles: tuple[int, int]) -> Picture:
    rows, columns = tiles
    equalised: Picture = cv2.createCLAHE(clip_limit, (columns, rows)).apply(grey)
    return equalised


_APPLY: Mapping[type[PixelStep], Callable[[Picture, Any], Picture]] = {
    Clahe: _clahe,
    Denoise: _denoise,
    Vessels: _vessels,
}
