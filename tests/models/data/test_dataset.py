"""What counts as a data set, and what is refused."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.data.dataset import Dataset
from models.errors import DataError
from service.bundle.manifest import Input, Sampling
from service.media.decode import decode_video
from service.media.limits import Limits

SPEC = Input(height=8, width=12)


def write_image(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((16, 24, 3), level, np.uint8))
    return path


def write_table(root: Path, text: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "splits.csv").write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Two clips of ten numbered frames, each a shade brighter than the one before."""
    for clip in ("walk/a", "run/b"):
        for number in range(1, 11):
            write_image(tmp_path / clip / f"frame_{number}.png", number * 20)
    return tmp_path


def test_folders_of_numbered_frames_are_clips_in_the_order_of_their_numbers(numbered: Path) -> None:
    dataset = Dataset.open(numbered)
    assert dataset.labels == ("run", "walk")
    clip = dataset.load(dataset.samples[0], spec=SPEC, sampling=Sampling(frames=5))
    assert clip.indices == (1, 3, 5, 7, 9)
    assert clip.frames[:, 0, 0, 0].tolist() == [40, 80, 120, 160, 200]


def test_a_missing_frame_is_named(numbered: Path) -> None:
    (numbered / "walk/a/frame_4.png").unlink()
    with pytest.raises(DataError, match=r"from frame 1 to 10 but lacks 1 of them, first 4"):
        Dataset.open(numbered)


def test_a_number_that_stands_twice_is_an_error(numbered: Path) -> None:
    write_image(numbered / "walk/a/frame_04.png", 0)
    with pytest.raises(DataError, match="frame 4 twice"):
        Dataset.open(numbered)


def test_folders_named_after_splits_are_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            write_image(tmp_path / split / label / "1.png", 0)
    dataset = Dataset.open(tmp_path)
    assert dataset.labels == ("cat", "dog")
    assert [sample.label for sample in dataset.split("test")] == ["cat", "dog"]
    assert dataset.class_ids(dataset.split("test")) == [0, 1]
    with pytest.raises(DataError, match="no samples in split 'val', only in test, train"):
        dataset.split("val")


def test_an_npz_gives_the_array_that_its_key_names(tmp_path: Path) -> None:
    clip = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((6, 16, 24), np.uint8)
    np.savez(tmp_path / "a.npz", one=clip, two=clip + 100)
    table = "file,key,label,group,split\na.npz,two,yes,g,train\na.npz,one,no,g,train\n"
    dataset = Dataset.open(write_table(tmp_path, table))
    gray = Input(height=8, width=12, color="gray")
    loaded = dataset.load(dataset.samples[0], spec=gray, sampling=Sampling(frames=3))
    assert loaded.frames.shape == (3, 8, 12, 1)
    assert loaded.frames[:, 0, 0, 0].tolist() == [101, 103, 105]


def test_an_array_that_is_no_clip_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.zeros((3, 8, 8), np.float32))
    dataset = Dataset.open(write_table(tmp_path, "file,key,label,group,split\na.npz,one,no,g,train\n"))
    with pytest.raises(DataError, match=r"float32 \[3, 8, 8\]; a clip is uint8"):
        dataset.load(dataset.samples[0], spec=SPEC, sampling=Sampling())


def test_a_group_that_crosses_splits_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        write_image(tmp_path / f"{name}.png", 0)
    table = "path,label,group,split\na.png,x,scene,train\nb.png,y,scene,test\n"
    with pytest.raises(DataError, match="group 'scene' lies in train and in test"):
        Dataset.open(write_table(tmp_path, table))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,label,split\na.png,x,train\n", "lacks the columns group"),
        ("path,label,group,split\nb.png,x,g,train\n", r"line 2: b.png does not exist"),
        ("path,label,group,split\na.png,x,g,dev\n", "split is 'dev'; allowed are train, val, test"),
        ("path,label,group,split,index\na.png,x,g,train,1\n", "must run from 0 without gaps"),
        ("path,label,group,split\n", "holds no samples"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_the_place(tmp_path: Path, table: str, message: str) -> None:
    write_image(tmp_path / "a.png", 0)
    with pytest.raises(DataError, match=message):
        Dataset.open(write_table(tmp_path, table))


def test_numbered_classes_of_one_name_are_told_apart_and_take_the_networks_names(tmp_path: Path) -> None:
    rows = ["a.png,crane,g1,train,1,n2", "b.png,crane,g2,train,0,n1", "c.png,tench,g3,train,2,n3"]
    for name in "abc":
        write_image(tmp_path / f"{name}.png", 0)
    write_table(tmp_path, "\n".join(["path,label,group,split,index,wnid", *rows]) + "\n")
    dataset = Dataset.open(tmp_path)
    assert dataset.labels == ("crane (n1)", "crane (n2)", "tench")
    assert dataset.class_ids(dataset.samples) == [1, 0, 2]
    renamed = Dataset.open(tmp_path, labels=["crane (bird)", "crane (machine)", "tench"])
    assert [sample.label for sample in renamed.samples] == ["crane (machine)", "crane (bird)", "tench"]
    with pytest.raises(DataError, match=r"class 2 is 'tench' in .* and 'goldfish' in the network"):
        Dataset.open(tmp_path, labels=["crane (bird)", "crane (machine)", "goldfish"])


def test_classes_that_the_network_lacks_are_refused_and_its_order_is_taken_over(numbered: Path) -> None:
    assert Dataset.open(numbered, labels=["walk", "jump", "run"]).class_ids(Dataset.open(numbered).samples) == [2, 0]
    with pytest.raises(DataError, match="classes that the network lacks: walk"):
        Dataset.open(numbered, labels=["run", "jump"])


def test_the_digest_is_of_the_content_not_of_the_place(
    numbered: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(numbered, copy)
    first, second = Dataset.open(numbered), Dataset.open(copy)
    assert first.digest(first.samples) == second.digest(second.samples)
    write_image(numbered / "walk/a/frame_1.png", 7)
    assert first.digest(first.samples) != second.digest(second.samples)


@pytest.mark.data
def test_a_video_is_loaded_as_the_server_decodes_it(data: Path) -> None:
    dataset = Dataset.open(data / "surveillance_fight")
    assert (len(dataset.samples), dataset.labels) == (234, ("fight", "no_fight"))
    assert [len(dataset.split(split)) for split in ("train", "val", "test")] == [149, 30, 55]
    sample = dataset.samples[0]
    clip = dataset.load(sample, spec=SPEC, sampling=Sampling(frames=4))
    served = decode_video(sample.path.read_bytes(), spec=SPEC, plan=Sampling(frames=4), limits=Limits()).clip
    assert np.array_equal(clip.frames, served.frames)
    assert clip.indices == (6, 18, 30, 42)


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "samples", "classes"),
    [
        ("imagenet_photos", 1000, 1000),
        ("miracl_vc1_words", 1200, 10),
        ("ut_interaction", 96, 6),
        ("magnetic_tile", 1123, 6),
    ],
)
def test_every_layout_of_the_data_sets_opens(data: Path, folder: str, samples: int, classes: int) -> None:
    dataset = Dataset.open(data / folder)
    assert (len(dataset.samples), len(set(dataset.labels))) == (samples, classes)
    clip = dataset.load(dataset.samples[-1], spec=SPEC, sampling=Sampling(frames=4))
    assert clip.frames.shape[1:] == (8, 12, 3)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    for label, content in (("fight", b""), ("peace", b"no picture")):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / "one.png").write_bytes(content)
    dataset = Dataset.open(tmp_path)
    for sample in dataset.samples:
        with pytest.raises(DataError, match=rf"{sample.label}/one\.png: .*; mend it, or take it out of the data set"):
            dataset.load(sample, spec=Input(height=8, width=8), sampling=Sampling())
