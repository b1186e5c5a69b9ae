"""How a data set lies on disk: a splits.csv, a folder per class, or MNIST's own files; what it says of each sample."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.errors import DataError
from models.idx import held_back, idx_parts, read_idx_labels
from models.load import IMAGES, VIDEOS, numbered_frames
from models.sample import Sample

SPLITS = ("train", "val", "test")


def is_dataset(folder: Path) -> bool:
    """Whether `folder` says itself what may be trained on: by a splits.csv, or as MNIST's files do."""
    return folder.is_dir() and ((folder / "splits.csv").is_file() or bool(idx_parts(folder)))


def read_layout(folder: Path) -> tuple[list[Sample], dict[int, str] | None]:
    """The samples and, where the data number their classes, the names by number."""
    table = folder / "splits.csv"
    if table.is_file():
        return _from_csv(table)
    parts = idx_parts(folder)
    return _from_idx(parts) if parts else (_from_folders(folder), None)


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


def _from_csv(table: Path) -> tuple[list[Sample], dict[int, str] | None]:
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or ())
        source = "path" if "path" in columns else "file"
        missing = {source, "label", "group", "split"} - columns
        if missing:
            raise DataError(
                f"{table} lacks the columns {', '.join(sorted(missing))}; it needs path (or file, key), label, group, split"
            )
        rows = list(reader)
    samples = []
    for line, row in enumerate(rows, start=2):
        path = table.parent / row[source]
        if not path.exists():
            raise DataError(
                f"{table}, line {line}: {row[source]} does not exist; copy the data set again, or take the line out"
            )
        if path.is_dir():
            numbered_frames(path)
        if row["split"] not in SPLITS:
            raise DataError(f"{table}, line {line}: split is {row['split']!r}; allowed are {', '.join(SPLITS)}")
        width, height = (int(row[side]) if (row.get(side) or "").isdecimal() else None for side in ("width", "height"))
        key = row.get("key") or None
        samples.append(Sample(path, key, row["label"], row["group"], row["split"], width=width, height=height))
    if "index" not in columns:
        return samples, None
    return _number(table, rows, samples)


def _number(table: Path, rows: list[dict[str, str]], samples: list[Sample]) -> tuple[list[Sample], dict[int, str]]:
    """Classes by their `index`; two of one name are told apart by their wnid or, lacking one, their index."""
    named: dict[int, tuple[str, str]] = {}
    for row in rows:
        index = int(row["index"])
        if named.setdefault(index, (row["label"], row.get("wnid") or row["index"]))[0] != row["label"]:
            raise DataError(
                f"{table}: index {index} stands for {named[index][0]!r} and for {row['label']!r}; each class needs its own"
            )
    if sorted(named) != list(range(len(named))):
        raise DataError(
            f"{table}: indices run to {max(named)} for {len(named)} classes; they must run from 0 without gaps"
        )
    count = Counter(label for label, _ in named.values())
    names = {index: f"{label} ({extra})" if count[label] > 1 else label for index, (label, extra) in named.items()}
    return [replace(sample, label=names[int(row["index"])]) for sample, row in zip(samples, rows, strict=True)], names


def _from_folders(root: Path) -> list[Sample]:
    top = _subfolders(root)
    splits: list[tuple[str | None, Path]] = [(folder.name, folder) for folder in top]
    if not top or not {folder.name for folder in top} <= set(SPLITS):
        splits = [(None, root)]
    samples = []
    for split, folder in splits:
        for class_folder in _subfolders(folder):
            for path in sorted(class_folder.iterdir()):
                if path.is_dir():
                    numbered_frames(path)
                elif path.suffix.lower() not in IMAGES | VIDEOS:
                    continue
                samples.append(Sample(path, None, class_folder.name, path.relative_to(root).as_posix(), split))
    return samples


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
