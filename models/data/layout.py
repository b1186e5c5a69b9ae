"""How a data set lies on disk: a table, MNIST's own files, or a folder per class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.data.folders import has_splits, read_folders
from models.data.idx import held_back, idx_parts, read_idx_labels
from models.data.listed import read_table, table_of
from models.data.sample import Sample


def is_dataset(folder: Path) -> bool:
    """Whether `folder` says itself what may be trained on: by a splits.csv, as MNIST's files do, or by folders of classes in train, val, test."""
    return folder.is_dir() and ((folder / "splits.csv").is_file() or bool(idx_parts(folder)) or has_splits(folder))


def read_layout(folder: Path) -> tuple[list[Sample], dict[int, str] | None]:
    """The samples and, where the data number their classes, the names by number."""
    table = table_of(folder)
    if table is not None:
        return read_table(table)
    parts = idx_parts(folder)
    return _from_idx(parts) if parts else (read_folders(folder), None)


def _from_idx(parts: Mapping[str, tuple[Path, Path]]) -> tuple[list[Sample], dict[int, str]]:
    samples: list[Sample] = []
    names: dict[int, str] = {}
    for part, (images, labels) in parts.items():
        classes = read_idx_labels(images, labels)
        names |= {int(value): str(value) for value in np.unique(classes)}
        held = held_back(classes) if part == "train" else np.zeros(len(classes), bool)
        for number, (value, val) in enumerate(zip(classes.tolist(), held.tolist(), strict=True)):
            split = "val" if val else part
            samples.append(Sample(images, str(number), names[value], f"{part}{number}", split))
    return samples, names
