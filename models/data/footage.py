"""Images that are read as clips, written as the videos that a service would be sent: to try a bundle by a request of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.data.dataset import Dataset, Sample
from models.data.load import is_still, load_still
from models.errors import DataError
from service.media.sample import uniform

FPS = 30
# MPEG-4 is what OpenCV's wheels can write into an .mp4; it changes pixels, by 3 of 255 levels on average on magnetic_tile.
_ANYWHERE, _EXACT = ("mp4v", ".mp4"), ("FFV1", ".mkv")


def write_footage(
    dataset: Dataset, samples: Sequence[Sample], *, out: Path, count: int, exact: bool = False
) -> list[Path]:
    """`out`/LABEL/NAME.mp4 for `count` of `samples`, spread over them; `exact`: .mkv without loss, the very pixels of training.

    Raises DataError for a data set whose images are not read as clips.
    """
    if dataset.motion is None:
        raise DataError(f"the recipe reads {dataset.root} as it lies there, without data.motion: send its own files")
    chosen = [samples[number] for number in uniform(len(samples), min(count, len(samples)))]
    codec, ending = _EXACT if exact else _ANYWHERE
    written = []
    for sample in chosen:
        if not is_still(sample.path, sample.key):
            raise DataError(f"{sample.name} is no still image; send the file itself")
        stem = sample.path.stem if sample.key is None else f"{sample.path.name.split('.')[0]}_{sample.key}"
        file = out / sample.label.replace("/", "_") / f"{stem}{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_video(file, dataset.motion.windows(load_still(sample.path, key=sample.key)), codec=codec)
        written.append(file)
    return written


def write_video(file: Path, frames: Sequence[NDArray[np.uint8]], *, codec: str) -> None:
    """`frames` `[h, w, 3]` RGB or `[h, w]` grey, all of one even size, at 30 a second; raises DataError where that cannot be written."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*codec), FPS, (width, height))
    try:
        if not writer.isOpened():
            raise DataError(
                f"{file} cannot be written: no room there, or this OpenCV has no {codec}; choose another folder"
            )
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR if frame.ndim == 2 else cv2.COLOR_RGB2BGR))
    finally:
        writer.release()
