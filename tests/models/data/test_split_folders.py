"""A folder per class inside train, val and test is a data set wherever one is asked for: it is never calibrated on test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.calibration import from_folder
from models.data.layout import is_dataset
from service.bundle.store import Bundle


def fill(folder: Path, *, count: int, level: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        ramp = np.linspace(level, level + 40 + number % 9, 24).astype(np.uint8)[None, :, None]
        Image.fromarray(ramp.repeat(24, axis=0).repeat(3, axis=2)).save(folder / f"{number}.png")


@pytest.fixture
def split(tmp_path: Path) -> Path:
    for number, (part, level) in enumerate((("train", 10), ("test", 200))):
        for label in ("a", "b"):
            fill(tmp_path / "data" / part / label, count=20, level=level + number)
    return tmp_path / "data"


def test_only_train_gives_calibration_frames(split: Path, color_bundle: Bundle) -> None:
    found = from_folder(split, color_bundle.manifest)
    assert (found.source.split, len(found.frames)) == ("train", 40)
    assert found.frames.max() < 100, "test is brighter"


def test_what_is_named_like_a_split_alone_is_none(split: Path, tmp_path: Path) -> None:
    assert is_dataset(split)
    (split / "test").rename(tmp_path / "elsewhere")
    assert not is_dataset(split)
    fill(tmp_path / "flat" / "train", count=2, level=1)
    fill(tmp_path / "flat" / "test", count=2, level=1)
    assert not is_dataset(tmp_path / "flat"), "pictures without a class"
