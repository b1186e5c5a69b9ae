"""Data sets as they lie on disk: what clips there are, how each is labelled, and which may be used for what.

Three layouts. With a `splits.csv`: columns `path` (or `file` and `key`, for arrays in an npz), `label`, `group`, `split`; an
`index` column fixes the order of the classes; a `labels.csv` may leave out group and split. MNIST's own files: see
`models.data.idx`. Else one folder per class, inside folders named train, val and test or straight in the root. A clip is an image, a
video, an array `[T, H, W]` or `[T, H, W, C]` in an npz, or a folder of numbered frames. Where in an image something is, masks
and boxes say: see `models.data.marks`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from models.data.layout import read_layout
from models.data.load import load_clip, numbered_frames
from models.data.marks import marked
from models.data.motion import Motion
from models.data.sample import Sample
from models.data.share import share_of
from models.errors import DataError
from service.bundle.manifest import Input, Sampling
from service.errors import RequestError
from service.media.frames import Clip

__all__ = ["Dataset", "Sample"]


def named_folder(data: str | Path, name: str | None) -> Path:
    """The data set called `name` in the folder `data`; where that holds none of the name, `data` is taken for it."""
    root = Path(data)
    return root / name if name and Path(name).name == name and (root / name).is_dir() else root


@dataclass(frozen=True, slots=True)
class Dataset:
    """`labels` in the order of the network's outputs; `samples` in the order of the file or of their paths."""

    root: Path
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    motion: Motion | None = None

    @classmethod
    def open(cls, root: str | Path, *, labels: Sequence[str] | None = None, motion: Motion | None = None) -> Self:
        """Read the layout under `root`; nothing is decoded. Raises DataError.

        `labels` are those of a network: their order is taken over, and a class of the data that is not among them is an
        error. Where the data number their classes, `crane` of the data may be `crane (bird)` there. `motion` reads every
        image as a clip.
        """
        folder = Path(root)
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder; name the folder of a data set")
        samples, numbered = read_layout(folder)
        if not samples:
            raise DataError(
                f"{folder} holds no samples; it needs a splits.csv or labels.csv, or a folder of images or videos per class"
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
        return cls(folder, names if labels is None else tuple(labels), tuple(marked(folder, samples)), motion)

    def split(self, name: str | None) -> tuple[Sample, ...]:
        """The samples of one split, all for None; a split without samples is a DataError."""
        found = tuple(sample for sample in self.samples if name is None or sample.split == name)
        if not found:
            held = ", ".join(sorted({sample.split for sample in self.samples if sample.split}))
            told = (
                f"only in {held}; add some, or choose one of these"
                if held
                else "and none in any other; sort them into folders train, val and test"
            )
            raise DataError(f"{self.root} has no samples in split {name!r}, {told}")
        return found

    def with_share(self, share: float, *, seed: int, split: str = "train") -> Self:
        """The same with `share` of one split's samples, see `share_of`; the other splits as they are."""
        kept = set(share_of(self.split(split), share=share, seed=seed))
        return replace(self, samples=tuple(each for each in self.samples if each.split != split or each in kept))

    def class_ids(self, samples: Sequence[Sample]) -> list[int]:
        """The output that stands for each sample's label."""
        ids = {label: number for number, label in enumerate(self.labels)}
        return [ids[sample.label] for sample in samples]

    def load(self, sample: Sample, *, spec: Input, sampling: Sampling) -> Clip:
        """The frames of `sample` as the network takes them, by the server's own code. Raises DataError."""
        try:
            if self.motion is not None:
                return self.motion.load(sample, spec=spec, sampling=sampling)
            return load_clip(sample.path, key=sample.key, spec=spec, sampling=sampling)
        except RequestError as error:
            raise DataError(f"{sample.path}: {error}; mend it, or take it out of the data set") from error

    def identity(self, sample: Sample) -> bytes:
        """What tells `sample` from all others of this data set, wherever that lies."""
        return f"{sample.path.relative_to(self.root).as_posix()}\0{sample.key or ''}".encode()

    def digest(self, samples: Sequence[Sample]) -> str:
        """sha256 over names, labels, bytes and marks of `samples`: the same data, the same digest, wherever the folder lies."""
        total = hashlib.sha256()
        files: dict[Path, bytes] = {}
        for sample in sorted(samples, key=lambda each: (str(each.path), each.key or "")):
            if sample.path not in files:
                files[sample.path] = _file_digest(sample.path)
            total.update(
                f"{sample.path.relative_to(self.root).as_posix()}\0{sample.key or ''}\0{sample.label}\0".encode()
            )
            total.update(files[sample.path])
            if sample.mask is not None:
                total.update(_file_digest(sample.mask))
            if sample.boxes:
                total.update(repr(sample.boxes).encode())
        return total.hexdigest()


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
