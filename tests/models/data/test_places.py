"""Places of a grid by masks and boxes, on pictures small enough to be counted."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.data.dataset import Dataset
from models.data.places import NOWHERE, UNKNOWN, class_map, places
from models.errors import DataError
from service.bundle.manifest import Grid, Input

GRID = Grid(rows=2, columns=2, order="boustrophedon")
FREE, DENT = 0, 1


def marked(root: Path, *, mask: np.ndarray | None, boxes: str = "") -> Dataset:
    """One dented picture of 40×20 with its mask or boxes, and one that is free."""
    for name in ("dent", "free"):
        (root / "images" / name).mkdir(parents=True)
        cv2.imwrite(str(root / "images" / name / "a.png"), np.zeros((20, 40), np.uint8))
    if mask is not None:
        (root / "masks" / "dent").mkdir(parents=True)
        cv2.imwrite(str(root / "masks" / "dent" / "a.png"), mask)
    if boxes:
        (root / "boxes.csv").write_text(f"path,label,xmin,ymin,xmax,ymax\n{boxes}\n")
    (root / "splits.csv").write_text(
        "path,label,group,split\nimages/dent/a.png,dent,a,train\nimages/free/a.png,free,b,train\n"
    )
    return Dataset.open(root, labels=["free", "dent"])


def test_a_mask_of_any_size_goes_through_the_pictures_resizing(tmp_path: Path) -> None:
    mask = np.zeros((60, 120), np.uint8)  # three times the picture's size
    mask[:30, 60:] = 255
    data = marked(tmp_path, mask=mask)
    wanted = np.zeros((8, 16), np.uint8)
    wanted[:4, 8:] = DENT
    dent, free = (class_map(data, sample, spec=Input(height=8, width=16), background="free") for sample in data.samples)
    assert (dent == wanted).all()
    assert (free == FREE).all()
    cut = Input.model_validate({"height": 8, "width": 8, "resize": {"rule": "crop", "short_side": 8}})
    centre = class_map(data, data.samples[0], spec=cut, background="free")
    assert (centre == wanted[:, 4:12]).all()


def test_of_boxes_that_overlap_the_smaller_one_is_seen_and_a_label_of_no_class_is_refused(tmp_path: Path) -> None:
    boxes = "images/dent/a.png,free,10,5,20,10\nimages/dent/a.png,dent,0,0,40,10"
    data = marked(tmp_path / "one", mask=None, boxes=boxes)
    found = class_map(data, data.samples[0], spec=Input(height=20, width=40), background="free")
    wanted = np.zeros((20, 40), np.uint8)
    wanted[:10] = DENT
    wanted[5:10, 10:20] = FREE
    assert (found == wanted).all()
    data = marked(tmp_path / "other", mask=None, boxes="images/dent/a.png,scratch,0,0,40,10")
    with pytest.raises(DataError, match="box of 'scratch', which is no class"):
        class_map(data, data.samples[0], spec=Input(height=20, width=40), background="free")


def test_a_mask_without_a_pixel_of_a_sample_that_shows_something_says_nothing(tmp_path: Path) -> None:
    data = marked(tmp_path, mask=np.zeros((20, 40), np.uint8))
    found = class_map(data, data.samples[0], spec=Input(height=8, width=16), background="free")
    assert (found == NOWHERE).all()
    assert places(found, grid=GRID, background=FREE, covered=0.1).tolist() == [UNKNOWN] * 4


def test_a_place_shows_what_covers_enough_of_it_in_the_order_of_the_grid() -> None:
    classes = np.zeros((8, 8), np.uint8)
    classes[4:, :4] = DENT  # below on the left: the last of a boustrophedon
    assert places(classes, grid=GRID, background=FREE, covered=0.5).tolist() == [FREE, FREE, FREE, DENT]


def test_one_that_is_covered_less_is_unknown_but_the_most_covered_shows_it_in_any_case() -> None:
    classes = np.zeros((8, 8), np.uint8)
    classes[0, 3:6] = DENT  # one pixel on the left, two on the right
    assert places(classes, grid=GRID, background=FREE, covered=0.25).tolist() == [UNKNOWN, DENT, FREE, FREE]


def test_of_two_classes_in_one_place_the_larger_counts_and_an_unknown_pixel_makes_it_unknown() -> None:
    classes = np.zeros((8, 8), np.uint8)
    classes[:4, :4] = DENT
    classes[:1, :4] = 2
    classes[7, 7] = NOWHERE
    assert places(classes, grid=GRID, background=FREE, covered=0.25).tolist() == [DENT, FREE, UNKNOWN, FREE]


def test_a_grid_whose_cells_are_no_whole_pixels_is_refused() -> None:
    with pytest.raises(DataError, match="2×2 places does not divide pictures of 7×8"):
        places(np.zeros((7, 8), np.uint8), grid=GRID, background=FREE, covered=0.5)
