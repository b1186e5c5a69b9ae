"""One image from bytes to a clip of one frame: measured, decoded, upright, at the network's size."""

from __future__ import annotations

import time
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from service.bundle.manifest import Input
from service.errors import DecodeFailed, DecodeLimit, UnsupportedMedia
from service.media.frames import Clip, Decoded, ImageInfo
from service.media.limits import Limits
from service.media.preprocess import fit
from service.media.sniff import BROKEN, image_info, jpeg_mode, open_image

Picture = NDArray[np.uint8]

# What the eight EXIF values ask for, as (transpose first, flip vertically, flip horizontally).
_ORIENTATIONS: dict[int, tuple[bool, bool, bool]] = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
_MARGIN = 2


def decode_image(data: bytes, *, spec: Input, limits: Limits) -> Decoded:
    """`data` → one frame `[1, height, width, C]` as `spec` asks, turned upright by its EXIF orientation.

    Transparent parts show white. Raises EmptyFile, UnsupportedMedia, TooManyPixels (by the header, before decoding),
    DecodeFailed for a file that is cut off or damaged, DecodeLimit where it asks for more memory than there is.
    """
    started = time.perf_counter()
    info = image_info(data)
    limits.check_pixels(width=info.width, height=info.height)
    warnings: tuple[str, ...] = ()
    try:
        if info.format == "JPEG":
            picture, order = _jpeg(data, info, spec)
        else:
            picture, order, count = _by_pillow(data, info)
            if count > 1:
                warnings = (f"the file holds {count} pictures; only the first was looked at",)
    except (MemoryError, cv2.error) as error:
        raise DecodeLimit(
            f"decoding {info.width}×{info.height} pixels ran out of memory ({error}); scale it down"
        ) from error
    decoded = time.perf_counter()
    # Pillow turns a TIFF by itself.
    upright = picture if info.format == "TIFF" else _turn(picture, info.orientation)
    frame = fit(upright, spec=spec, order=order)
    clip = Clip(frame[None], (0,), (0.0,), info, warnings)
    return Decoded(clip, (decoded - started) * 1e3, (time.perf_counter() - decoded) * 1e3)


def _jpeg(data: bytes, info: ImageInfo, spec: Input) -> tuple[Picture, Literal["rgb", "bgr"]]:
    # OpenCV decodes a JPEG to the same pixels as Pillow in half the time, but 4.x hands out a picture that is filled up
    # with grey where the file was cut off: a JPEG without its end is refused first.
    if not _is_complete(data):
        raise DecodeFailed("the JPEG breaks off before its end marker; send the whole file")
    if jpeg_mode(data) not in {"L", "RGB"}:
        return _by_pillow(data, info)[:2]
    flags = _REDUCED.get(_reduction(info, spec), cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    picture: Picture | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if picture is None:
        raise DecodeFailed("the JPEG is damaged: its header reads well, its pixels do not; send the file again")
    return picture, "bgr"


def _reduction(info: ImageInfo, spec: Input) -> int:
    """How far libjpeg may shrink the picture while it decodes: 1, 2, 4 or 8.

    The discrete cosine transform yields averages of 2×2, 4×4 or 8×8 pixels for a third of the cost of all pixels. What
    it leaves is still `_MARGIN` times the network's size or more on each axis, so that the averaging proper follows.
    """
    sides = (spec.resize.short_side or max(spec.height, spec.width)) * _MARGIN
    for factor in (8, 4, 2):
        if min(info.width, info.height) >= sides * factor:
            return factor
    return 1


def _is_complete(data: bytes) -> bool:
    """Whether an end marker follows the start of the scan; thumbnails inside the header carry one too, and are skipped."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker == 0xDA:
            return data.find(b"\xff\xd9", at) >= 0
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _by_pillow(data: bytes, info: ImageInfo) -> tuple[Picture, Literal["rgb", "bgr"], int]:
    try:
        with open_image(data, info.format) as image:
            # What was measured against the limits must be what is decoded; TIFF alone states its size turned upright.
            if sorted(image.size) != sorted((info.width, info.height)):
                raise DecodeFailed(
                    f"the {info.format} states two sizes, {info.width}×{info.height} and {image.size[0]}×{image.size[1]}; save it anew"
                )
            return _rgb(image, info), "rgb", int(getattr(image, "n_frames", 1))
    except BROKEN as error:
        raise DecodeFailed(
            f"the {info.format} is cut off or damaged ({error}); send the whole file, or save it anew"
        ) from error


def _rgb(image: ImageFile.ImageFile, info: ImageInfo) -> Picture:
    """`[h, w, 3]` RGB, or `[h, w]` grey, of any of Pillow's modes."""
    image.load()
    if image.mode.startswith("I;16"):
        # Pillow's own conversion would clip at 255 where it should divide.
        return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    if image.mode in {"I", "F"}:
        raise UnsupportedMedia(
            f"the {info.format} holds 32-bit numbers without a scale (mode {image.mode}); save it with 8 or 16 bits"
        )
    if image.has_transparency_data:
        flat = Image.new("RGBA", image.size, (255, 255, 255, 255))
        flat.alpha_composite(image.convert("RGBA"))
        return np.asarray(flat.convert("RGB"))
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def _turn(picture: Picture, orientation: int) -> Picture:
    transpose, vertically, horizontally = _ORIENTATIONS[orientation]
    if transpose:
        picture = picture.swapaxes(0, 1)
    if vertically:
        picture = picture[::-1]
    if horizontally:
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)
