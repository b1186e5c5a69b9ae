"""A data set small enough to train on in seconds: clips in which a square of one colour moves over grey noise."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

COLORS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}
SIZE = 32


def clip(color: str, *, seed: int, frames: int = 6) -> np.ndarray:
    """`[T, SIZE, SIZE, 3]` RGB."""
    random = np.random.default_rng(seed)
    pixels = random.integers(90, 160, (frames, SIZE, SIZE, 1)).repeat(3, axis=-1).astype(np.uint8)
    left, top = random.integers(0, SIZE - 16, 2)
    for number, frame in enumerate(pixels):
        frame[top : top + 14, left + number % 3 : left + number % 3 + 14] = COLORS[color]
    return pixels


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 clips of each colour as numbered PNG frames, with splits: 12 train, 4 val, 4 test."""
    root = tmp_path_factory.mktemp("data") / "squares"
    rows = []
    for color_number, color in enumerate(COLORS):
        for number in range(20):
            folder = root / "clips" / color / f"{number:02d}"
            folder.mkdir(parents=True)
            for index, frame in enumerate(clip(color, seed=100 * color_number + number)):
                cv2.imwrite(str(folder / f"frame_{index:03d}.png"), frame[..., ::-1])
            split = "train" if number < 12 else "val" if number < 16 else "test"
            rows.append(
                {
                    "path": folder.relative_to(root).as_posix(),
                    "label": color,
                    "group": f"{color}{number}",
                    "split": split,
                }
            )
    with (root / "splits.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "group", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return root
