"""Data sets as they lie on disk: what clips there are, how each is labelled, and which may be used for what.

Two layouts of one's own. With a `splits.csv`: columns `path` (or `file` and `key`, for arrays in an npz), `label`, `group`, `split`; an
`index` column fixes the order of the classes. Without: one folder per class, inside folders named train, val and test or
straight in the root. A clip is an image, a video, an array `[T, H, W]` or `[T, H, W, C]` in an npz, or a folder of
numbered frames. MNIST's own files are a third layout: see `models.idx`.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from models.errors import DataError
from models.idx import held_back, idx_parts, read_idx_labels
from models.load import IMAGES, VIDEOS, load_clip, numbered_frames
from service.bundle.manifest import Input, Sampling
from service.media.frames import Clip

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled clip. `key` names the array in an npz. Samples of one `group` (source, scene, patient) belong together."""

    path: Path
    key: str | None
    label: str
    group: str
    split: str | None

    @property
    def name(self) -> str:
        return f"{self.path.name}:{self.key}" if self.key else self.path.name


@dataclass(frozen=True, slots=True)
class Dataset:
    """`labels` in the order of the network's outputs; `samples` in the order of the file or of their paths."""

    root: Path
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]

    @classmethod
    def open(cls, root: str | Path, *, labels: Sequence[str] | None = None) -> Self:
        """Read the layout under `root`; nothing is decoded. Raises DataError.

        `labels` are those of a network: their order is taken over, and a class of the data that is not among them is an
        error. Where the data number their classes, `crane` of the data may be `crane (bird)` there.
        """
        folder = Path(root)
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder; name the folder of a data set")
        samples, numbered = _read(folder)
        if not samples:
            raise DataError(
                f"{folder} holds no samples; it needs a splits.csv, or a folder of images or videos per class"
            )
        _check_groups(folder, samples)
        if numbered is not None:
            names = tuple(numbered[index] for index in sorted(numbered))
            if labels is not None:
                samples = _renamed(folder, samples, numbered, labels)
        else:
            names = tuple(sorted({sample.label for sample in samples}))
            foreign = set(names) - set(names if labels is None else labels)
            if foreign:
                raise DataError(
                    f"{folder} has classes that the network lacks: {', '.join(sorted(foreign)[:5])}; give it other data"
                )
        return cls(folder, names if labels is None else tuple(labels), tuple(samples))

    def split(self, name: str | None) -> tuple[Sample, ...]:
        """The samples of one split, all for None; a split without samples is a DataError."""
        found = tuple(sample for sample in self.samples if name is None or sample.split == name)
        if not found:
            held = ", ".join(sorted({sample.split or "no split" for sample in self.samples}))
            raise DataError(f"{self.root} has no samples in split {name!r}, only in {held}; choose one of these")
        return found

    def class_ids(self, samples: Sequence[Sample]) -> list[int]:
        """The output that stands for each sample's label."""
        ids = {label: number for number, label in enumerate(self.labels)}
        return [ids[sample.label] for sample in samples]

    def load(self, sample: Sample, *, spec: Input, sampling: Sampling) -> Clip:
        """The frames of `sample` as the network takes them, by the server's own code. Raises DataError or RequestError."""
        return load_clip(sample.path, key=sample.key, spec=spec, sampling=sampling)

    def digest(self, samples: Sequence[Sample]) -> str:
        """sha256 over names, labels and bytes of `samples`: the same data, the same digest, wherever the folder lies."""
        total = hashlib.sha256()
        files: dict[Path, bytes] = {}
        for sample in sorted(samples, key=lambda each: (str(each.path), each.key or "")):
            if sample.path not in files:
                files[sample.path] = _file_digest(sample.path)
            total.update(
                f"{sample.path.relative_to(self.root).as_posix()}\0{sample.key or ''}\0{sample.label}\0".encode()
            )
            total.update(files[sample.path])
        return total.hexdigest()


def is_dataset(folder: Path) -> bool:
    """Whether `folder` says itself what may be trained on: by a splits.csv, or as MNIST's files do."""
    return (folder / "splits.csv").is_file() or bool(idx_parts(folder))


def _read(folder: Path) -> tuple[list[Sample], dict[int, str] | None]:
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
        samples.append(Sample(path, row.get("key") or None, row["label"], row["group"], row["split"]))
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


def _renamed(folder: Path, samples: list[Sample], names: Mapping[int, str], labels: Sequence[str]) -> list[Sample]:
    if len(labels) != len(names):
        raise DataError(f"{folder} numbers {len(names)} classes, the network has {len(labels)}; give it other data")
    for index, label in enumerate(labels):
        if label.split(" (")[0] != names[index].split(" (")[0]:
            raise DataError(
                f"class {index} is {names[index]!r} in {folder} and {label!r} in the network; give it other data"
            )
    new = {names[index]: label for index, label in enumerate(labels)}
    return [replace(sample, label=new[sample.label]) for sample in samples]


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


def _check_groups(root: Path, samples: Sequence[Sample]) -> None:
    seen: dict[str, str | None] = {}
    for sample in samples:
        if seen.setdefault(sample.group, sample.split) != sample.split:
            raise DataError(
                f"{root}: group {sample.group!r} lies in {seen[sample.group]} and in {sample.split}; a group that crosses "
                "splits makes figures too good: put it into one"
            )


def _file_digest(path: Path) -> bytes:
    if path.is_dir():
        return b"".join(hashlib.sha256(frame.read_bytes()).digest() for frame in numbered_frames(path))
    return hashlib.sha256(path.read_bytes()).digest()
