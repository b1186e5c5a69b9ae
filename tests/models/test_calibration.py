"""Calibration frames are real, of the train split, and as the server would see them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.calibration import from_dataset, from_folder
from models.data.dataset import Dataset
from models.data.motion import Motion
from models.errors import DataError
from service.bundle.manifest import Manifest
from service.bundle.store import Bundle


@pytest.fixture
def manifest(color_bundle: Bundle) -> Manifest:
    return color_bundle.manifest  # 16×16, 4 frames of a clip


def paint(file: Path, color: tuple[int, int, int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((20, 20, 3), color[::-1], np.uint8))


def test_only_the_train_split_is_used(tmp_path: Path, manifest: Manifest) -> None:
    lines = ["path,label,group,split"]
    for number in range(60):
        split = ("train", "val", "test")[number % 3] if number < 30 else "train"
        paint(tmp_path / f"{number}.png", (255 - number % 3, 0, 0) if split == "train" else (0, 255, 0))
        lines.append(f"{number}.png,{number % 2},{number},{split}")
    (tmp_path / "splits.csv").write_text("\n".join(lines))
    found = from_folder(tmp_path, manifest)
    assert found.frames.shape == (40, 16, 16, 3)
    assert (found.frames[..., 0] > 250).all()
    assert (found.frames[..., 1] < 5).all()
    assert (found.source.split, found.source.description) == ("train", tmp_path.name)


def test_classes_have_equal_shares_of_a_few_frames(squares: Path, manifest: Manifest) -> None:
    found = from_dataset(Dataset.open(squares), manifest, limit=36)
    # The square's colour stands out of the grey: which channel leads in the most colourful pixel?
    spread = found.frames.max(axis=-1).astype(int) - found.frames.min(axis=-1)
    best = spread.reshape(len(found.frames), -1).argmax(axis=1)
    leaders = found.frames.reshape(len(found.frames), -1, 3)[np.arange(len(best)), best].argmax(axis=-1)
    assert Counter(leaders.tolist()) == {0: 12, 1: 12, 2: 12}


def test_the_same_seed_takes_the_same_frames_and_another_does_not(squares: Path, manifest: Manifest) -> None:
    dataset = Dataset.open(squares)
    one, same, other = (from_dataset(dataset, manifest, limit=32, seed=seed) for seed in (0, 0, 1))
    assert one.source == same.source != other.source
    assert np.array_equal(one.frames, same.frames)


def test_images_that_a_recipe_reads_as_clips_give_their_windows(tmp_path: Path, manifest: Manifest) -> None:
    for number in range(20):
        paint(tmp_path / f"{number}.png", (9 * number, 0, 0))
    found = from_folder(tmp_path, manifest, motion=Motion(frames=4, window=0.5))
    assert Counter(found.frames[:, 0, 0, 0].tolist()) == {9 * number: 4 for number in range(20)}
    with pytest.raises(DataError, match="20 calibration frames were found"):
        from_folder(tmp_path, manifest)


def test_a_plain_folder_is_searched_to_the_bottom(tmp_path: Path, manifest: Manifest) -> None:
    for number in range(40):
        paint(tmp_path / "a" / f"b{number % 4}" / f"{number}.jpg", (number * 6, 0, 0))
    (tmp_path / "notes.txt").write_text("not a picture")
    found = from_folder(tmp_path, manifest)
    assert len(found.frames) == 40
    assert found.source.split is None


def test_too_few_frames_are_refused(tmp_path: Path, manifest: Manifest) -> None:
    for number in range(31):
        paint(tmp_path / f"{number}.png", (0, 0, 0))
    with pytest.raises(DataError, match="31 calibration frames were found, at least 32 are needed"):
        from_folder(tmp_path, manifest)
    with pytest.raises(DataError, match="no folder"):
        from_folder(tmp_path / "nowhere", manifest)


def test_a_few_broken_files_are_passed_over_and_told(
    tmp_path: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(40):
        paint(tmp_path / f"{number}.png", (number, 0, 0))
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert len(from_folder(tmp_path, manifest).frames) == 40
    (told,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("passed over"))
    assert "2 of 42 calibration files cannot be read, the first " in told
    assert f"{tmp_path}/page.jpg: the file is" in told or f"{tmp_path}/empty.mp4: " in told


def test_a_folder_of_mostly_broken_files_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    for number in range(40):
        paint(tmp_path / f"{number}.png", (number, 0, 0))
        (tmp_path / f"{number}.jpg").write_text("no picture")
    (tmp_path / "one_more.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"41 of 81 calibration files cannot be read, the first .*\.jpg: "):
        from_folder(tmp_path, manifest)
    for number in range(10):
        (tmp_path / f"{number}.png").unlink()
        (tmp_path / f"{number}.jpg").unlink()
    for number in range(10, 35):
        (tmp_path / f"{number}.jpg").unlink()
    with pytest.raises(
        DataError, match=r"30 calibration frames were found.*\(6 of 36 calibration files cannot be read"
    ):
        from_folder(tmp_path, manifest)


def test_a_broken_file_of_a_data_set_is_refused_by_its_path(tmp_path: Path, manifest: Manifest) -> None:
    lines = ["path,label,group,split"]
    for number in range(40):
        paint(tmp_path / f"{number}.png", (number, 0, 0))
        lines.append(f"{number}.png,{number % 2},{number},train")
    (tmp_path / "splits.csv").write_text("\n".join(lines))
    (tmp_path / "7.png").write_text("no picture")
    with pytest.raises(DataError, match=r"a clip of the data set cannot be read: .*/7\.png: "):
        from_folder(tmp_path, manifest)
