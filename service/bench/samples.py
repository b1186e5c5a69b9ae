"""What is posted: files of the user's, or one made here."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Task
from service.errors import MareyError
from service.media.sniff import task_of

_MOST = 256  # files; more would show nothing further, and all are held in memory
_SIZE = (640, 480)


@dataclass(frozen=True, slots=True)
class Samples:
    """Files of one kind, and where they come from, in words."""

    task: Task
    files: tuple[bytes, ...]
    source: str


def read_samples(path: Path) -> Samples:
    """The file, or every file in the folder and those below it, of the kind of the first. Raises MareyError."""
    found = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    try:
        contents = [file.read_bytes() for file in found[:_MOST]]
    except OSError as error:
        raise MareyError(f"--file {path} cannot be read: {error.strerror}") from None
    if not contents:
        raise MareyError(f"--file {path} holds no file; name an image, a video, or a folder of them")
    task = task_of(contents[0])
    files = tuple(data for data in contents if task_of(data) == task)
    return Samples(task, files, f"{len(files)} {task}{'s' if len(files) > 1 else ''} of {path.name}")


@cache
def made_samples(task: Task) -> Samples:
    """A JPEG of 640×480, or an MP4 of two seconds in that size: smooth shapes that move, with noise, as photos have it."""
    import cv2  # noqa: PLC0415  # who measures engines does without

    if task == "image":
        written, data = cv2.imencode(".jpg", _picture(0), [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert written
        return Samples(task, (data.tobytes(),), "a JPEG of 640×480 made here")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "made.mp4"
        fourcc: Any = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(file), fourcc, 25.0, _SIZE)
        for number in range(50):
            writer.write(_picture(number))
        writer.release()
        return Samples(task, (file.read_bytes(),), "an MP4 of 640×480, 50 frames, made here")


def _picture(number: int) -> NDArray[np.uint8]:
    width, height = _SIZE
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / (19 + 7 * c) + number / 5) * np.cos(y / (23 + 5 * c) - number / 9) for c in range(3)]
    noise = np.random.default_rng(number).normal(0, 6, (height, width, 3))
    return np.clip(128 + 90 * np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)
