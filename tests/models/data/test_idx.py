"""MNIST's own files are read as they are, and what is wrong with them is said."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from models.data.dataset import Dataset
from models.data.idx import held_back, read_idx_images
from models.errors import DataError
from service.bundle.manifest import Input, Sampling

SPEC = Input(height=6, width=8, color="gray")


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def packed(content: bytes) -> bytes:
    """The fast end of gzip's levels, for time; and no date, since tests are called by what they are given."""
    return gzip.compress(content, 1, mtime=0)


def write(folder: Path, part: str, images: np.ndarray, classes: np.ndarray) -> None:
    """As MNIST comes."""
    for name, values in ((f"{part}-images-idx3-ubyte.gz", images), (f"{part}-labels-idx1-ubyte.gz", classes)):
        (folder / name).write_bytes(packed(idx(values.astype(np.uint8))))


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """1,200 images of 6 × 8 in twelve classes to train, 24 to test; every pixel of an image is its number modulo 251."""
    for part, count in (("train", 1200), ("t10k", 24)):
        numbers = np.arange(count)
        write(tmp_path, part, np.broadcast_to((numbers % 251)[:, None, None], (count, 6, 8)), numbers % 12)
    return tmp_path


def test_a_folder_of_idx_files_is_a_data_set_whose_val_is_a_twelfth_of_train(digits: Path) -> None:
    dataset = Dataset.open(digits)
    assert dataset.labels == tuple(str(digit) for digit in range(12))  # 10 stands after 9, not after 1
    assert [len(dataset.split(split)) for split in ("train", "val", "test")] == [1100, 100, 24]
    held = [sample.label for sample in dataset.split("val")]
    assert {held.count(label) for label in dataset.labels} == {8, 9}
    assert dataset.class_ids(dataset.samples[:3]) == [0, 1, 2]
    assert Dataset.open(digits) == dataset


def test_an_image_of_an_idx_file_is_a_clip_of_one_frame(digits: Path) -> None:
    dataset = Dataset.open(digits)
    for sample in (dataset.samples[0], dataset.samples[300], dataset.split("test")[5]):
        clip = dataset.load(sample, spec=SPEC, sampling=Sampling(frames=4))
        assert clip.frames.shape == (1, 6, 8, 1)
        assert set(clip.frames.ravel().tolist()) == {int(sample.key or "") % 251}


def test_idx_files_need_not_be_packed_and_may_be_named_with_a_dot(digits: Path, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("plain")
    for file in digits.iterdir():
        name = file.name.removesuffix(".gz").replace("-idx", ".idx").replace("t10k", "test")
        (other / name).write_bytes(gzip.decompress(file.read_bytes()))
    dataset = Dataset.open(other)
    assert [len(dataset.split(split)) for split in ("train", "val", "test")] == [1100, 100, 24]
    assert dataset.load(dataset.samples[7], spec=SPEC, sampling=Sampling()).frames.max() == 7


def test_the_digest_of_idx_files_is_that_of_their_content(digits: Path) -> None:
    dataset = Dataset.open(digits)
    before = [dataset.digest(dataset.split(split)) for split in ("train", "test")]
    write(digits, "t10k", np.ones((24, 6, 8)), np.arange(24) % 12)
    after = [dataset.digest(dataset.split(split)) for split in ("train", "test")]
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


def test_a_file_that_changes_is_read_again(digits: Path) -> None:
    file = digits / "t10k-images-idx3-ubyte.gz"
    assert read_idx_images(file)[3].max() == 3
    write(digits, "t10k", np.full((30, 6, 8), 9), np.zeros(30))
    assert read_idx_images(file)[3].max() == 9


def test_val_holds_a_twelfth_of_uneven_classes_to_the_image() -> None:
    classes = np.repeat(np.arange(3, dtype=np.uint8), [601, 301, 98])
    held = held_back(classes)
    assert held.sum() == 83
    assert np.bincount(classes[held]).tolist() == [50, 25, 8]
    assert np.array_equal(held, held_back(classes))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t10k-images-idx3-ubyte.gz", packed(b"\x89PNG" + bytes(20)), "starts with 89 50 4e 47, an idx file"),
        ("t10k-labels-idx1-ubyte.gz", packed(idx(np.zeros(23, np.uint8))), "23 labels for the 24 images"),
        (
            "t10k-labels-idx1-ubyte.gz",
            packed(idx(np.zeros(24, np.uint8))[:-4]),
            "says 24 = 24 bytes and holds 20",
        ),
        ("t10k-labels-idx1-ubyte.gz", packed(idx(np.zeros(24, np.uint8)))[:-12], "damaged or breaks off"),
        ("t10k-labels-idx1-ubyte.gz", b"not gzip", "damaged or breaks off"),
        ("t10k-images-idx3-ubyte.gz", packed(idx(np.zeros((0, 6, 8), np.uint8))), "which is nothing"),
        ("t10k-images-idx3-ubyte.gz", packed(bytes((0, 0, 8, 3, 0))), "starts with 00 00 08 03"),
    ],
)
def test_an_idx_file_that_is_wrong_is_named_with_what_is_wrong(
    digits: Path, name: str, content: bytes, message: str
) -> None:
    (digits / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        Dataset.open(digits)
    assert name in str(raised.value)


def test_images_that_break_off_are_named_when_the_first_is_wanted(digits: Path) -> None:
    file = digits / "train-images-idx3-ubyte.gz"
    file.write_bytes(packed(gzip.decompress(file.read_bytes())[:-1]))
    dataset = Dataset.open(digits)
    with pytest.raises(DataError, match=r"1200 × 6 × 8 = 57600 bytes and holds 57599; copy the file again"):
        dataset.load(dataset.samples[0], spec=SPEC, sampling=Sampling())


def test_images_without_their_labels_are_refused(digits: Path) -> None:
    (digits / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz has no labels beside it"):
        Dataset.open(digits)


@pytest.mark.data
def test_mnist_has_its_official_test_and_five_thousand_to_choose_by(data: Path) -> None:
    dataset = Dataset.open(data / "mnist")
    assert [len(dataset.split(split)) for split in ("train", "val", "test")] == [55_000, 5_000, 10_000]
    assert [sample.label for sample in dataset.split("test")[:5]] == ["7", "2", "1", "0", "4"]
    clip = dataset.load(dataset.split("test")[0], spec=Input(height=28, width=28, color="gray"), sampling=Sampling())
    assert (clip.frames.shape, int(clip.frames.max())) == ((1, 28, 28, 1), 255)
