"""One clip from disk to frames, by the server's own decoding, sampling and preprocessing: training sees what serving sees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.idx import is_idx, read_idx_images
from models.errors import DataError
from service.bundle.manifest import Input, Sampling
from service.media.decode import decode_video
from service.media.frames import Clip, VideoInfo
from service.media.image import decode_image
from service.media.limits import Limits
from service.media.preprocess import fit
from service.media.sample import uniform
from service.media.sniff import image_info

IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEOS = frozenset({".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})
_LIMITS = Limits()
_LARGEST = 4096  # the largest side that an input may ask for
_ON_ITS_SIDE = 5  # EXIF orientations from here on swap width and height


def load_clip(path: Path, *, key: str | None = None, spec: Input, sampling: Sampling) -> Clip:
    """The sampled frames `[T, height, width, C]` of a file, of the array `key` in an npz, or of a folder of numbered frames.

    Of an idx file `key` is the number of one image, from 0.

    Raises DataError for what is no clip, and what the server raises for media that break.
    """
    if is_idx(path):
        return _from_idx(path, key=key, spec=spec)
    if key is not None or path.suffix.lower() == ".npz":
        return _from_array(path, key=key, spec=spec, sampling=sampling)
    if path.is_dir():
        return _from_frames(path, spec=spec, sampling=sampling)
    if path.suffix.lower() in IMAGES:
        return decode_image(path.read_bytes(), spec=spec, limits=_LIMITS).clip
    if path.suffix.lower() in VIDEOS:
        return decode_video(path, spec=spec, plan=sampling, limits=_LIMITS).clip
    raise DataError(
        f"{path} is neither image, video, npz nor folder by its name; allowed endings: {', '.join(sorted(IMAGES | VIDEOS))}"
    )


def is_still(path: Path, key: str | None) -> bool:
    """Whether this is one image: by its name, or one of an idx file."""
    return is_idx(path) or (key is None and path.suffix.lower() in IMAGES and not path.is_dir())


def load_still(path: Path, *, key: str | None = None) -> NDArray[np.uint8]:
    """A whole image, upright and at its own size, `[height, width, 3]` RGB or `[height, width]` grey. Raises DataError or RequestError."""
    if is_idx(path):
        return _idx_image(path, key)
    data = path.read_bytes()
    info = image_info(data)
    width, height = (info.height, info.width) if info.orientation >= _ON_ITS_SIDE else (info.width, info.height)
    if max(width, height) > _LARGEST:
        raise DataError(f"{path} is {width}×{height}; {_LARGEST} pixels a side are allowed: scale it down")
    frame: NDArray[np.uint8] = decode_image(data, spec=Input(height=height, width=width), limits=_LIMITS).clip.frames[0]
    return frame


def clip_of(
    path: Path, pictures: Sequence[NDArray[np.uint8]], *, spec: Input, sampling: Sampling, kind: str = "images"
) -> Clip:
    """Of `pictures`, each `[h, w]` or `[h, w, C]` RGB, those that `sampling` takes, as `spec` asks; `path` is for the message."""
    chosen = _chosen(path, len(pictures), sampling=sampling)
    frames = np.stack([fit(np.ascontiguousarray(pictures[i]), spec=spec) for i in chosen])
    return _clip(frames, chosen, count=len(pictures), kind=kind)


def numbered_frames(folder: Path) -> tuple[Path, ...]:
    """The images of `folder` by the last number in their names; a number that is missing or there twice is a DataError."""
    numbered: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGES or path.name.startswith(
            "."
        ):  # macOS leaves ._frame_1.jpg beside frame_1.jpg
            continue
        numbers = re.findall(r"\d+", path.stem)
        if not numbers:
            raise DataError(f"{path} has no number in its name; a clip's frames are numbered, as in frame_0001.jpg")
        if int(numbers[-1]) in numbered:
            raise DataError(
                f"{folder} has frame {numbers[-1]} twice, as {numbered[int(numbers[-1])].name} and {path.name}; keep one"
            )
        numbered[int(numbers[-1])] = path
    if not numbered:
        raise DataError(f"{folder} holds no frames; a clip's folder holds numbered images, as frame_0001.jpg")
    first, last = min(numbered), max(numbered)
    missing = [number for number in range(first, last + 1) if number not in numbered]
    if missing:
        raise DataError(
            f"{folder} runs from frame {first} to {last} but lacks {len(missing)} of them, first {missing[0]}; extract the frames again"
        )
    return tuple(numbered[number] for number in sorted(numbered))


def _from_frames(folder: Path, *, spec: Input, sampling: Sampling) -> Clip:
    paths = numbered_frames(folder)
    chosen = _chosen(folder, len(paths), sampling=sampling)
    frames = np.concatenate(
        [decode_image(paths[i].read_bytes(), spec=spec, limits=_LIMITS).clip.frames for i in chosen]
    )
    return _clip(frames, chosen, count=len(paths), kind="images")


def _from_idx(path: Path, *, key: str | None, spec: Input) -> Clip:
    return _clip(fit(_idx_image(path, key), spec=spec)[None], (0,), count=1, kind="idx")


def _idx_image(path: Path, key: str | None) -> NDArray[np.uint8]:
    images = read_idx_images(path)
    if key is None or not key.isdecimal() or int(key) >= len(images):
        raise DataError(f"{path} has no image {key!r}; it holds those from 0 to {len(images) - 1}")
    image: NDArray[np.uint8] = images[int(key)]
    return image


def _from_array(path: Path, *, key: str | None, spec: Input, sampling: Sampling) -> Clip:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if key is None or key not in arrays:
                raise DataError(
                    f"{path} has no array {key!r}, only {', '.join(list(arrays)[:5])} …; name one in the column key"
                )
            clip: NDArray[np.generic] = arrays[key]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as npz ({error}); write it with numpy.savez") from None
    pictures = clip[..., None] if clip.ndim == 3 else clip
    if clip.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] not in (1, 3) or 0 in pictures.shape:
        raise DataError(
            f"{path}:{key} is {clip.dtype} {list(clip.shape)}; a clip is uint8 [T, H, W], [T, H, W, 1] or [T, H, W, 3]"
        )
    return clip_of(path, list(pictures.astype(np.uint8)), spec=spec, sampling=sampling, kind="npz")


def _chosen(path: Path, count: int, *, sampling: Sampling) -> tuple[int, ...]:
    if sampling.strategy != "uniform":
        raise DataError(
            f"{path} has frames without times, so they cannot be sampled by {sampling.strategy}; choose strategy uniform"
        )
    return uniform(count, sampling.frames, short_clip=sampling.short_clip)


def _clip(frames: NDArray[np.uint8], chosen: tuple[int, ...], *, count: int, kind: str) -> Clip:
    height, width = frames.shape[1:3]
    info = VideoInfo(duration_s=0.0, fps=0.0, width=width, height=height, codec=kind, frames_decoded=count, rotation=0)
    return Clip(frames, chosen, (0.0,) * len(chosen), info)
