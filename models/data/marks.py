"""Where in an image something is: pixel masks and boxes that lie beside a data set's images.

`masks/` mirrors the folder `images/`: `images/crack/a.jpg` is marked by `masks/crack/a.png`. `boxes.csv` has the columns
`path`, `label`, `xmin`, `ymin`, `xmax`, `ymax`, in pixels of the image as it lies there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from models.data.sample import Box, Sample
from models.errors import DataError
from service.errors import MareyError
from service.media.sniff import image_info

MASKS, BOXES = "masks", "boxes.csv"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def marked(root: Path, samples: Sequence[Sample]) -> list[Sample]:
    """`samples` with the masks and boxes that lie under `root`, and the size of each image that has some. Raises DataError."""
    boxes = _boxes(root / BOXES) if (root / BOXES).is_file() else {}
    masks = {
        path.relative_to(root / MASKS).with_suffix("").as_posix(): path
        for path in (root / MASKS).rglob("*")
        if path.suffix.lower() == ".png"
    }
    if not boxes and not masks:
        return list(samples)
    found = []
    for sample in samples:
        within = PurePosixPath(sample.path.relative_to(root).as_posix())
        mask = next((masks[name] for name in _mask_names(within) if name in masks), None)
        known = replace(sample, mask=mask, boxes=boxes.pop(str(within), ()))
        found.append(_measured(known) if known.mask or known.boxes else known)
    if boxes:
        raise DataError(
            f"{root / BOXES} names {next(iter(boxes))}, which is no image of this data set; take its lines out"
        )
    return found


def _mask_names(within: PurePosixPath) -> Iterable[str]:
    plain = within.with_suffix("")
    return (PurePosixPath(*plain.parts[1:]).as_posix(), plain.as_posix())


def _measured(sample: Sample) -> Sample:
    """With the size of its image, where the table did not say it; its boxes lie inside."""
    if sample.width is None or sample.height is None:
        try:
            info = image_info(sample.path.read_bytes())
        except MareyError as error:
            raise DataError(f"{sample.path}: {error}") from None
        sample = replace(sample, width=info.width, height=info.height)
    assert sample.width is not None
    assert sample.height is not None
    for left, top, right, bottom, _ in sample.boxes:
        if not (0 <= left < right <= sample.width and 0 <= top < bottom <= sample.height):
            raise DataError(
                f"{BOXES}: {sample.path.name} is {sample.width}×{sample.height}, its box {left}, {top}, {right}, {bottom} "
                "does not lie in it; mend the line"
            )
    return sample


def _boxes(table: Path) -> dict[str, tuple[Box, ...]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"path", "label", *_CORNERS} - set(reader.fieldnames or ())
        if missing:
            raise DataError(
                f"{table} lacks the columns {', '.join(sorted(missing))}; it needs path, label, {', '.join(_CORNERS)}"
            )
        found: dict[str, tuple[Box, ...]] = {}
        for line, row in enumerate(reader, start=2):
            found[row["path"]] = (*found.get(row["path"], ()), _box(table, line, row))
    return found


def _box(table: Path, line: int, row: Mapping[str, str]) -> Box:
    try:
        left, top, right, bottom = (int(row[name]) for name in _CORNERS)
    except (TypeError, ValueError):
        said = ", ".join(str(row[name]) for name in _CORNERS)
        raise DataError(
            f"{table}, line {line}: a box is four whole numbers of pixels, not {said}; mend the line"
        ) from None
    return left, top, right, bottom, row["label"]
