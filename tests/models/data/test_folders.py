"""Folders as people have them: names of all kinds are read, and what would be learned wrongly is refused."""

import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.data.dataset import Dataset
from models.errors import DataError


def put(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
    return root


def test_class_folders_may_have_spaces_accents_and_capital_endings(tmp_path: Path) -> None:
    put(
        tmp_path, "no fight/a b.JPG", "größe/ü.PNG", "größe/b.Jpeg", "größe/notes.txt", ".cache/x.png", "__MACOSX/y.png"
    )
    dataset = Dataset.open(tmp_path)
    assert dataset.labels == ("größe", "no fight")
    assert [sample.name for sample in dataset.samples] == ["b.Jpeg", "ü.PNG", "a b.JPG"]


def test_a_class_whose_accents_stand_apart_in_one_split_is_one_class(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "größe")
    put(tmp_path, f"train/{apart}/a.png", "test/größe/b.png", "train/x/a.png")
    assert Dataset.open(tmp_path).labels == ("größe", "x")


def test_splits_may_have_their_usual_other_names(tmp_path: Path) -> None:
    put(tmp_path, "Training/x/a.png", "valid/x/b.png", "TEST/x/c.png")
    assert [(sample.path.name, sample.split) for sample in Dataset.open(tmp_path).samples] == [
        ("c.png", "test"),
        ("a.png", "train"),
        ("b.png", "val"),
    ]


def test_what_macos_leaves_beside_files_is_no_sample(tmp_path: Path) -> None:
    put(tmp_path, "x/._a.png", "x/a.png", "x/clip/f_1.png", "x/clip/._f_1.png", "x/clip/f_2.png")
    assert [sample.name for sample in Dataset.open(tmp_path).samples] == ["a.png", "clip"]


def test_masks_beside_the_images_mark_them_without_a_table(tmp_path: Path) -> None:
    put(tmp_path, "images/crack/a.jpg", "images/free/b.jpg", "masks/crack/a.PNG")
    crack, free = Dataset.open(tmp_path).samples
    assert (crack.label, free.label, free.mask) == ("crack", "free", None)
    assert crack.mask == tmp_path / "masks/crack/a.PNG"


@pytest.mark.parametrize("mask", ["crack/a.png", "crack/a_mask.jpg", "crack/a_gt.bmp"])
def test_masks_among_the_images_are_not_learned_as_images(tmp_path: Path, mask: str) -> None:
    put(tmp_path, "crack/a.jpg", mask, "free/b.jpg")
    with pytest.raises(DataError, match=r"one of them a mask as it seems; .*: images/crack/… and masks/crack/…\.png"):
        Dataset.open(tmp_path)


def test_a_class_without_a_single_sample_is_named(tmp_path: Path) -> None:
    put(tmp_path, "x/a.png", "y/notes.txt")
    with pytest.raises(DataError, match=r"y holds no image or video .*put some in, or remove the folder"):
        Dataset.open(tmp_path)
    # In one of the splits a class may be missing: that is for whoever uses the split to judge.
    put(tmp_path / "split", "train/x/a.png", "train/y/b.png", "test/x/c.png", "test/y/notes.txt")
    assert Dataset.open(tmp_path / "split").labels == ("x", "y")


def test_a_split_beside_other_folders_is_not_taken_for_a_class(tmp_path: Path) -> None:
    put(tmp_path, "train/x/a.png", "test/x/b.png", "unused/x/c.png")
    with pytest.raises(DataError, match=r"holds test, which is a split, beside unused; move"):
        Dataset.open(tmp_path)


def test_a_folder_of_loose_images_says_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    with pytest.raises(DataError, match=r"holds no samples; it needs a splits\.csv or labels\.csv, or a folder"):
        Dataset.open(tmp_path)
