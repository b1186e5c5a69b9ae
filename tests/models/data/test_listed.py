"""Tables as people write them are read; what is wrong in one is told with its line."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.data.dataset import Dataset
from models.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images/a one.png", "images/b.PNG", "images/ü.jpg"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file.with_suffix(".png")), np.zeros((8, 8), np.uint8))
        file.with_suffix(".png").rename(file)
    return tmp_path


def test_labels_alone_make_a_data_set_without_splits_each_file_a_group(folder: Path) -> None:
    (folder / "labels.csv").write_text("path,label\nimages/a one.png,x y\nimages/ü.jpg,größe\n", encoding="utf-8")
    dataset = Dataset.open(folder)
    assert dataset.labels == ("größe", "x y")
    assert [(sample.split, sample.group) for sample in dataset.samples] == [
        (None, "images/a one.png"),
        (None, "images/ü.jpg"),
    ]
    with pytest.raises(
        DataError,
        match="no samples in split 'train', and none in any other; sort them into folders train, val and test",
    ):
        dataset.split("train")


def test_a_splits_table_comes_before_a_labels_table(folder: Path) -> None:
    (folder / "labels.csv").write_text("path,label\nimages/b.PNG,x\n", encoding="utf-8")
    (folder / "splits.csv").write_text("path,label,group,split\nimages/b.PNG,y,g,test\n", encoding="utf-8")
    assert Dataset.open(folder).labels == ("y",)


def test_what_spreadsheets_and_windows_write_is_read(folder: Path) -> None:
    text = "Path; Label;Group;Split\r\nimages\\b.PNG;y;g;train\r\n\r\nimages\\ü.jpg;z;h;test\r\n"
    (folder / "splits.csv").write_bytes(text.replace("; ", ";").encode("utf-8-sig"))
    dataset = Dataset.open(folder)
    assert [(sample.path.name, sample.label, sample.split) for sample in dataset.samples] == [
        ("b.PNG", "y", "train"),
        ("ü.jpg", "z", "test"),
    ]
    assert dataset.digest(dataset.samples)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.csv", b"path\nimages/b.PNG\n", r"lacks the columns label; it needs path \(or file"),
        ("labels.csv", b"path,label\nimages/b.PNG,\n", "line 2 has no label; fill it in"),
        ("labels.csv", b"path,label\n,x\n", "line 2 has no path"),
        ("labels.csv", b"path,label\nimages/b.PNG\n", "line 2 has no label"),
        ("labels.csv", b"path,label\nimages/b.PNG,x\nimages/b.PNG,y\n", "line 3: b.PNG stands in line 2 already"),
        ("labels.csv", b"path,label,split\nimages/b.PNG,x,dev\n", "split is 'dev'; allowed are train, val, test"),
        ("splits.csv", b"path,label,group,split\nimages/b.PNG,x,g,\n", "split is ''; allowed are"),
        (
            "splits.csv",
            "path,label,group,split\nimages/ü.jpg,x,g,test\n".encode("latin-1"),
            "is not UTF-8 .* at byte 30",
        ),
        ("splits.csv", b"path,label,group,split\n../out.png,x,g,test\n", "../out.png lies outside .*copy it there"),
        ("splits.csv", b"path,label,group,split,index\nimages/b.PNG,x,g,test,one\n", "line 2: index is 'one'"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_the_line(folder: Path, name: str, content: bytes, message: str) -> None:
    folder = folder / "images" / ".."  # as people type it
    (folder / "../out.png").touch()
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Dataset.open(folder)


def test_the_lines_are_those_of_the_file(folder: Path) -> None:
    (folder / "labels.csv").write_text("path,label\nimages/b.PNG,x\n\nimages/c.png,y\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 4: images/c\.png does not exist"):
        Dataset.open(folder)
