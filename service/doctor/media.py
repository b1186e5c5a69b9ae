"""OpenCV and Pillow: what they really decode, tried on a tiny file of each kind through the service's own code."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Input, Sampling
from service.doctor.child import NoAnswer
from service.doctor.report import Check, info, no, ok
from service.doctor.samples import samples
from service.errors import MareyError
from service.media.limits import Limits

_SPEC = Input(height=64, width=64)
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
# How far a decoded colour may be from the one that was encoded: subsampled chroma and a lossy codec stay well below.
_TOLERANCE = 30
_AGAIN = "pip install --force-reinstall opencv-python-headless pillow"


@dataclass(frozen=True, slots=True)
class Tried:
    """For each kind of file "" where it came out with the right pixels, else what happened."""

    opencv: str
    ffmpeg: str | None  # the version of libavcodec, None where OpenCV was built without FFmpeg
    codecs: dict[str, str]
    images: dict[str, str]


def tried() -> Tried:
    """Decode a sample of everything. To be asked of a child: a broken decoder may crash."""
    import cv2  # noqa: PLC0415  # here it is under test

    build = cv2.getBuildInformation()
    avcodec = re.search(r"^\s*avcodec:\s*YES \(([\d.]+)\)", build, flags=re.MULTILINE)
    return Tried(
        opencv=cv2.__version__,
        ffmpeg=avcodec and avcodec.group(1),
        codecs={name: _video(data) for name, data in samples().items()},
        images={name: _image(name) for name in _FORMATS},
    )


def opencv(tried: Tried | NoAnswer) -> list[Check]:
    if isinstance(tried, NoAnswer):
        return [no("opencv", f"nothing could be decoded: {tried}", _AGAIN, version=None, ffmpeg=None)]
    if tried.ffmpeg is None:
        library = no(
            "opencv",
            f"OpenCV {tried.opencv}, built without FFmpeg: it reads no videos",
            _AGAIN,
            version=tried.opencv,
            ffmpeg=None,
        )
    else:
        says = f"OpenCV {tried.opencv} with FFmpeg (libavcodec {tried.ffmpeg})"
        library = ok("opencv", says, version=tried.opencv, ffmpeg=tried.ffmpeg)
    checks = [library, *_decoded("video", tried.codecs)]
    for name, trouble in tried.codecs.items():
        if trouble:
            checks.append(
                no(
                    name,
                    f"does not decode here: {trouble}",
                    "ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4 before posting such videos",
                    decodes=False,
                )
            )
    return checks


def images(tried: Tried | NoAnswer) -> list[Check]:
    if isinstance(tried, NoAnswer):
        return [no("images", f"nothing could be decoded: {tried}", _AGAIN, decodes=[])]
    broken = [
        no(name, f"does not decode here: {trouble}", _AGAIN, decodes=False)
        for name, trouble in tried.images.items()
        if trouble
    ]
    return [*_decoded("image", tried.images), *broken]


def _decoded(kind: str, tried: dict[str, str]) -> list[Check]:
    good = [name for name, trouble in tried.items() if not trouble]
    if not good:
        return [info(f"{kind}s", f"no {kind} was decoded", decodes=[])]
    return [ok(f"{kind}s", f"a sample of each was decoded: {', '.join(good)}", decodes=[*good])]


def _video(data: bytes) -> str:
    from service.media.decode import decode_video  # noqa: PLC0415  # imports OpenCV, which is under test

    try:
        decoded = decode_video(data, spec=_SPEC, plan=Sampling(frames=2), limits=Limits())
    except MareyError as error:
        return str(error).partition(";")[0]
    return _compare(decoded.clip.frames)


def _image(kind: str) -> str:
    from PIL import Image  # noqa: PLC0415  # likewise

    from service.media.image import decode_image  # noqa: PLC0415

    buffer = io.BytesIO()
    try:
        Image.fromarray(_picture()).save(buffer, kind)
        return _compare(decode_image(buffer.getvalue(), spec=_SPEC, limits=Limits()).clip.frames)
    except (MareyError, KeyError, OSError) as error:  # KeyError: Pillow was built without that format
        return str(error).partition(";")[0]


def _picture() -> NDArray[np.uint8]:
    """`[64, 64, 3]`: red, and blue on the right."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :32, 0] = picture[:, 32:, 2] = 255
    return picture


def _compare(frames: NDArray[np.uint8]) -> str:
    """Whether every frame shows the sample; the middle, where chroma blends, is left out."""
    wanted = _picture().astype(int)
    off = np.abs(frames.astype(int) - wanted)[:, :, [*range(28), *range(36, 64)]]
    return "" if off.max() <= _TOLERANCE else f"its pixels are wrong by up to {off.max()} of 255"
