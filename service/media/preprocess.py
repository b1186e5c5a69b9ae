"""From a decoded picture of any size to `[H, W, C]` uint8 as the manifest's input asks: resize rule, colour, steps."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Input
from service.media.steps import apply_steps

Picture = NDArray[np.uint8]

# Encoders write aspects such as 445:444 where rounding to even sizes left them; nobody sees 2 %, and resampling costs.
SQUARE_WITHIN = 0.02

# OpenCV averages 2×2 pixels ten times faster than it averages areas in general: halving first takes a 4K frame from 29 to
# 10 ms, and moves values by less than one level of 255 on average. An odd last row or column is left out: at most 1/8 of
# a pixel of the result.
HALVE_FROM = 4

# A centre crop shows at most the central square. Scaling the whole of a 50,000,000 × 1 picture to a short side of 256
# would ask for terabytes, so what lies beyond this aspect is cut off first; ordinary pictures never reach it.
MAX_CROP_ASPECT = 8


def fit(picture: Picture, *, spec: Input, order: Literal["rgb", "bgr"] = "rgb", pixel_aspect: float = 1.0) -> Picture:
    """`picture` `[h, w, 3]` in `order`, or grey `[h, w]` or `[h, w, 1]` → `[spec.height, spec.width, C]` contiguous RGB or grey.

    `pixel_aspect` is how much wider than high a stored pixel is shown; `crop` and `pad` keep the shape that is shown. Raises
    BundleError where `spec` names a step that is unknown here, or with parameters beyond their limits.
    """
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    colored = _color(_resize(picture, spec=spec, pixel_aspect=pixel_aspect), spec=spec, order=order)
    return np.ascontiguousarray(apply_steps(colored, spec=spec))


def scale(picture: Picture, *, width: int, height: int) -> Picture:
    """Resize to `[height, width]`: each axis averages areas where it shrinks and interpolates where it grows."""
    h, w = picture.shape[:2]
    if (h, w) == (height, width):
        return picture
    while w >= HALVE_FROM * width and h >= HALVE_FROM * height:
        picture = _cv_resize(picture[: h // 2 * 2, : w // 2 * 2], w // 2, h // 2, cv2.INTER_AREA)
        h, w = picture.shape[:2]
    if width > w and height < h:
        # OpenCV's area rule silently turns into nearest-like weights where one axis grows: shrink first, then grow.
        picture = _cv_resize(picture, w, height, cv2.INTER_AREA)
    elif width < w and height > h:
        picture = _cv_resize(picture, width, h, cv2.INTER_AREA)
    shrinks = width <= picture.shape[1] and height <= picture.shape[0]
    return _cv_resize(picture, width, height, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _centre(picture: Picture, *, height: int, width: int) -> Picture:
    top, left = max(0, picture.shape[0] - height) // 2, max(0, picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def _cv_resize(picture: Picture, width: int, height: int, interpolation: int) -> Picture:
    resized: Picture = cv2.resize(picture, (width, height), interpolation=interpolation)
    return resized


def _resize(picture: Picture, *, spec: Input, pixel_aspect: float) -> Picture:
    height, width = spec.height, spec.width
    if spec.resize.rule == "squash":
        return scale(picture, width=width, height=height)
    stored_h, stored_w = picture.shape[:2]
    h, w = float(stored_h), float(stored_w)
    if abs(pixel_aspect - 1.0) > SQUARE_WITHIN:
        w *= pixel_aspect
    if spec.resize.rule == "crop":
        assert spec.resize.short_side is not None
        picture = _centre(picture, height=int(w * MAX_CROP_ASPECT) + 1, width=int(h * MAX_CROP_ASPECT) + 1)
        w, h = w * picture.shape[1] / stored_w, h * picture.shape[0] / stored_h
        factor = spec.resize.short_side / min(h, w)
        scaled = scale(picture, width=max(width, round(w * factor)), height=max(height, round(h * factor)))
        return _centre(scaled, height=height, width=width)
    factor = min(height / h, width / w)
    scaled = scale(
        picture,
        width=min(width, max(1, round(w * factor))),
        height=min(height, max(1, round(h * factor))),
    )
    padded: Picture = np.zeros((height, width, *picture.shape[2:]), np.uint8)
    top, left = (height - scaled.shape[0]) // 2, (width - scaled.shape[1]) // 2
    padded[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return padded


def _color(picture: Picture, *, spec: Input, order: Literal["rgb", "bgr"]) -> Picture:
    # Colour comes after resizing: a frame of the network's size holds some ten times fewer pixels.
    colored: Picture
    if picture.ndim == 2:
        colored = picture[:, :, None] if spec.color == "gray" else cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    elif spec.color == "gray":
        grey: Picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY if order == "rgb" else cv2.COLOR_BGR2GRAY)
        colored = grey[:, :, None]
    else:
        colored = picture if order == "rgb" else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return colored
