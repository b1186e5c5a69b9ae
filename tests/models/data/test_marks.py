"""Masks and boxes beside the images are found, and belong to what they name."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.data.dataset import Dataset
from models.errors import DataError

SPLITS = "path,label,group,split\nimages/crack/a.jpg,crack,a,train\nimages/free/b.jpg,free,b,test\n"
BOXES = "path,label,xmin,ymin,xmax,ymax\n"


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Two images, 24 wide and 16 high."""
    for name in ("crack/a", "free/b"):
        file = tmp_path / "images" / f"{name}.jpg"
        file.parent.mkdir(parents=True)
        cv2.imwrite(str(file), np.zeros((16, 24), np.uint8))
    (tmp_path / "splits.csv").write_text(SPLITS, encoding="utf-8")
    return tmp_path


def write_mask(root: Path, name: str) -> Path:
    file = root / "masks" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.zeros((16, 24), np.uint8))
    return file


def test_images_without_marks_have_none(tiles: Path) -> None:
    assert [(sample.mask, sample.boxes, sample.width) for sample in Dataset.open(tiles).samples] == [
        (None, (), None)
    ] * 2


def test_a_mask_is_found_in_the_folder_that_mirrors_the_images(tiles: Path) -> None:
    file = write_mask(tiles, "crack/a.png")
    crack, free = Dataset.open(tiles).samples
    assert (crack.mask, crack.width, crack.height) == (file, 24, 16)
    assert free.mask is None


def test_boxes_come_in_the_order_of_their_lines_with_their_own_labels(tiles: Path) -> None:
    rows = "images/crack/a.jpg,crack,1,2,10,12\nimages/crack/a.jpg,spot,0,0,24,16\n"
    (tiles / "boxes.csv").write_text(BOXES + rows, encoding="utf-8")
    crack, free = Dataset.open(tiles).samples
    assert crack.boxes == ((1, 2, 10, 12, "crack"), (0, 0, 24, 16, "spot"))
    assert (crack.width, crack.height) == (24, 16)
    assert free.boxes == ()


def test_other_marks_are_other_data(tiles: Path) -> None:
    digests = []
    for rows in ("", "images/crack/a.jpg,crack,1,2,10,12\n", "images/crack/a.jpg,crack,1,2,10,13\n"):
        (tiles / "boxes.csv").write_text(BOXES + rows, encoding="utf-8")
        dataset = Dataset.open(tiles)
        digests.append(dataset.digest(dataset.samples))
    write_mask(tiles, "crack/a.png")
    dataset = Dataset.open(tiles)
    digests.append(dataset.digest(dataset.samples))
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label,xmin,ymin\n", "lacks the columns xmax, ymax"),
        (
            BOXES + "images/crack/a.jpg,crack,1,2,x,12\n",
            "line 2: a box is four whole numbers of pixels, not 1, 2, x, 12",
        ),
        (BOXES + "images/crack/a.jpg,crack,1,2,25,12\n", r"a\.jpg is 24×16, its box 1, 2, 25, 12 does not lie in it"),
        (BOXES + "images/crack/a.jpg,crack,10,2,10,12\n", "does not lie in it"),
        (
            BOXES + "images/crack/c.jpg,crack,1,2,10,12\n",
            r"names images/crack/c\.jpg, which is no image of this data set",
        ),
    ],
)
def test_boxes_that_are_wrong_are_refused_with_the_place(tiles: Path, content: str, message: str) -> None:
    (tiles / "boxes.csv").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Dataset.open(tiles)


@pytest.mark.data
def test_every_tile_has_its_mask_and_every_steel_surface_its_boxes(data: Path) -> None:
    tiles = Dataset.open(data / "magnetic_tile").samples
    assert all(sample.mask is not None and sample.mask.stem == sample.path.stem for sample in tiles)
    steel = Dataset.open(data / "neu_surface_defects").samples
    assert sum(len(sample.boxes) for sample in steel) == 3539
    assert all(sample.boxes and (sample.width, sample.height) == (200, 200) for sample in steel)
