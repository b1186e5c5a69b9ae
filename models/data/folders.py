"""Samples that lie in one folder per class: straight in the root, or inside folders named after the splits."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from models.data.load import IMAGES, VIDEOS, numbered_frames
from models.data.sample import Sample
from models.errors import DataError

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SIDE = {"images", "masks"}  # masks are no class: they mark what the images show
_MASK = ("_mask", "-mask", "_gt")


def has_splits(root: Path) -> bool:
    """Whether `root` holds train and another split, nothing else, and folders of classes in each."""
    top = _subfolders(root)
    splits = {_SPLITS.get(folder.name.lower()) for folder in top}
    return "train" in splits and len(splits) > 1 and None not in splits and all(_subfolders(folder) for folder in top)


def read_folders(root: Path) -> list[Sample]:
    """The samples below `root` (or below its `images`, where masks lie beside them), by class and name. Raises DataError."""
    top = _subfolders(root)
    if {folder.name for folder in top} <= _SIDE and (root / "images").is_dir():
        top = _subfolders(root / "images")
    splits = {folder: _SPLITS.get(folder.name.lower()) for folder in top}
    others = [folder.name for folder, split in splits.items() if split is None]
    if others and len(others) < len(splits):
        named = next(folder.name for folder, split in splits.items() if split is not None)
        raise DataError(
            f"{root} holds {named}, which is a split, beside {', '.join(others[:5])}; move whatever is none out of there"
        )
    classes = (
        [(None, folder) for folder in top]
        if others
        else [(split, folder) for part, split in splits.items() for folder in _subfolders(part)]
    )
    samples = [sample for split, folder in classes for sample in _class(root, folder, split=split)]
    missing = {_label(folder) for _, folder in classes} - {sample.label for sample in samples}
    if samples and missing:
        raise DataError(
            f"{root}: {', '.join(sorted(missing)[:5])} holds no image or video ({', '.join(sorted(IMAGES | VIDEOS))}); "
            "put some in, or remove the folder"
        )
    return samples


def _class(root: Path, folder: Path, *, split: str | None) -> list[Sample]:
    samples = []
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            numbered_frames(path)
        elif path.suffix.lower() not in IMAGES | VIDEOS:
            continue
        else:
            _no_mask(path, images)
        samples.append(Sample(path, None, _label(folder), path.relative_to(root).as_posix(), split))
    return samples


def _no_mask(path: Path, images: dict[str, Path]) -> None:
    """Raise DataError where `path` seems to mark another image: the network would be shown masks as if they were pictures."""
    plain = next((path.stem.removesuffix(end) for end in _MASK if path.stem.endswith(end)), path.stem)
    other = images.setdefault(plain, path)
    if other != path and path.suffix.lower() in IMAGES:
        raise DataError(
            f"{path.parent} holds {other.name} and {path.name}, one of them a mask as it seems; "
            f"masks lie in a folder of their own: images/{path.parent.name}/… and masks/{path.parent.name}/….png"
        )


def _label(folder: Path) -> str:
    # macOS takes letters and their accents apart in file names: the same class would have two names.
    return unicodedata.normalize("NFC", folder.name)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
