"""What each place of a picture shows, by the masks or boxes of a data set: the truth that a network which says *where* learns from.

    mask or boxes ──the input's resize rule──► map [H, W] of classes ──grid──► [P], one class a place

The map goes through the same resizing as the picture, and through the same views in training, so that both stay in register.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.data.dataset import Dataset, Sample
from models.data.sample import Box
from models.errors import DataError
from service.bundle.manifest import Frozen, Grid, Input
from service.media.preprocess import fit

# Of a place, or a pixel, of which nothing is known: it does not count.
UNKNOWN = -1
NOWHERE = 255  # the same in a map of bytes
_HALF = 128  # of 255: a pixel belongs to what covers half of it


class PlacesPlan(Frozen):
    """`background`: the label of what shows nothing of note; where the data have no such class, it is added behind theirs.

    A place shows a class that covers `covered` of it, and the place that a class covers most shows it in any case: a small defect is
    somewhere. One that is covered less is `UNKNOWN`: half in, half out teaches nothing.
    """

    background: str
    covered: float = Field(default=0.125, gt=0, le=1)
    crf: bool = False


def class_map(dataset: Dataset, sample: Sample, *, spec: Input, background: str) -> NDArray[np.uint8]:
    """`[H, W]`: the class of each pixel of the picture as the network sees it; 255 where it is not known. Raises DataError.

    It is known of a sample with a mask or boxes, and of one of the background, which shows it everywhere. A mask without any pixel of
    a sample that does show something says nothing.
    """
    labels = dataset.labels
    nothing = labels.index(background)
    empty = np.full((spec.height, spec.width), nothing, np.uint8)
    if sample.label == background:
        return empty
    found = empty.copy()
    for label, cover in _covers(sample):
        if label not in labels:
            raise DataError(
                f"{sample.name} has a box of {label!r}, which is no class of {dataset.root}; mend boxes.csv"
            )
        plain = spec.model_copy(update={"color": "gray", "preprocess": ()})
        found[fit(cover, spec=plain)[..., 0] >= _HALF] = labels.index(label)
    return found if (found != nothing).any() else np.full_like(empty, NOWHERE)


def places(classes: NDArray[np.uint8], *, grid: Grid, background: int, covered: float) -> NDArray[np.int64]:
    """The class of each place of `grid`, `[P]`, by a map `[H, W]`; UNKNOWN where the map does not tell. See PlacesPlan.

    Raises DataError where the cells are no whole pixels.
    """
    height, width = classes.shape
    if height % grid.rows or width % grid.columns:
        raise DataError(
            f"a grid of {grid.rows}×{grid.columns} places does not divide pictures of {height}×{width}; choose another input size"
        )
    cells = classes.reshape(grid.rows, height // grid.rows, grid.columns, width // grid.columns)
    held = [int(label) for label in np.unique(classes) if label not in (background, NOWHERE)]
    found = np.full((grid.rows, grid.columns), background, np.int64)
    best = np.zeros((grid.rows, grid.columns))
    for label in held:
        share = (cells == label).mean(axis=(1, 3))
        shows = (share >= covered) | (share == share.max())
        found[(share > 0) & ~shows & (best == 0)] = UNKNOWN
        won = shows & (share > best)
        found[won], best[won] = label, share[won]
    found[(cells == NOWHERE).any(axis=(1, 3)) & (best == 0)] = UNKNOWN
    rows, columns = np.array(grid.cells).T
    numbered: NDArray[np.int64] = found[rows, columns]
    return numbered


def _covers(sample: Sample) -> list[tuple[str, NDArray[np.uint8]]]:
    """What the sample shows, `[h, w]` of 0 and 255 at its own size, the largest first: a small box on a large one stays visible."""
    if sample.mask is not None:
        mask = cv2.imread(str(sample.mask), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise DataError(f"{sample.mask} cannot be read as a picture; copy the data set again")
        return [(sample.label, np.where(mask >= _HALF, 255, 0).astype(np.uint8))]
    assert sample.boxes == () or (sample.width and sample.height), "boxes come with the size of their picture"
    covers = []
    for left, top, right, bottom, label in sorted(sample.boxes, key=_area, reverse=True):
        cover = np.zeros((sample.height or 0, sample.width or 0), np.uint8)
        cover[top:bottom, left:right] = 255
        covers.append((label, cover))
    return covers


def _area(box: Box) -> int:
    left, top, right, bottom, _ = box
    return (right - left) * (bottom - top)
