"""A few real clips of the calibration folder, decoded by the server's own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import Dataset
from models.data.layout import is_dataset
from models.data.load import IMAGES, VIDEOS, load_clip
from models.errors import DataError
from service.bundle.manifest import Input, Sampling
from service.errors import MareyError
from service.media.sample import uniform

Sampled = tuple[tuple[str, NDArray[np.uint8]], ...]


def sample_clips(folder: Path, *, spec: Input, sampling: Sampling, count: int) -> Sampled:
    """Up to `count` clips `[T, H, W, C]` by name, spread over the folder; of a data set, of its train split. Raises DataError.

    A file that cannot be decoded is passed over, as long as one can be.
    """
    places: list[tuple[Path, str | None]]
    if is_dataset(folder):
        places = [(sample.path, sample.key) for sample in Dataset.open(folder).split("train")]
    elif folder.is_dir():
        places = [(path, None) for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGES | VIDEOS]
    else:
        places = []
    if not places:
        raise DataError(f"{folder} holds no images or videos; give a folder of some like those that will be classified")
    found: list[tuple[str, NDArray[np.uint8]]] = []
    failed = ""
    for number in uniform(len(places), min(count, len(places))):
        path, key = places[number]
        try:
            found.append(
                (path.name if key is None else key, load_clip(path, key=key, spec=spec, sampling=sampling).frames)
            )
        except MareyError as error:
            failed = f"{path}: {error}"
    if not found:
        raise DataError(
            f"nothing in {folder} can be decoded ({failed}); give images or videos like those that will be classified"
        )
    return tuple(found)
