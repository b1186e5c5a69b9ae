"""A still image read as a clip: a window of it moves over the surface, the same for whoever loads it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from models.data.dataset import Dataset
from models.data.motion import Motion
from models.data.sample import Sample
from service.bundle.manifest import Input, Sampling
from service.media.preprocess import fit

SPEC = Input(height=8, width=8, color="gray")


@pytest.fixture
def ramp(tmp_path: Path) -> Sample:
    """An image of 60 × 40 whose grey is its column plus 100 where the row is 20 or more."""
    pixels = np.arange(60)[None] + np.where(np.arange(40) < 20, 0, 100)[:, None]
    file = tmp_path / "ramp.png"
    assert cv2.imwrite(str(file), pixels.astype(np.uint8))
    return Sample(file, None, "x", "g", "train")


@pytest.mark.parametrize(
    ("path", "first", "last"),
    [
        ("across", (0, 0, 30, 40), (30, 0, 60, 40)),
        ("down", (0, 0, 60, 20), (0, 20, 60, 40)),
        ("along", (0, 0, 30, 40), (30, 0, 60, 40)),
        ("snake", (0, 0, 30, 20), (0, 20, 30, 40)),
    ],
)
def test_a_window_goes_from_one_end_to_the_other(path: str, first: tuple[int, ...], last: tuple[int, ...]) -> None:
    corners = Motion(frames=8, window=0.5, path=path).corners(width=60, height=40)
    assert (len(corners), corners[0], corners[-1]) == (8, first, last)


def test_along_follows_the_longer_side() -> None:
    assert Motion(frames=4, window=0.5, path="along").corners(width=40, height=60)[-1] == (0, 30, 40, 60)


@pytest.mark.parametrize("size", [(93, 224), (177, 201), (28, 28), (401, 57)])
@pytest.mark.parametrize("path", ["across", "down", "along", "snake"])
def test_windows_lie_inside_have_one_even_size_and_see_the_surface(path: str, size: tuple[int, int]) -> None:
    width, height = size
    seen = np.zeros((height, width), bool)
    corners = Motion(frames=16, window=0.4, path=path).corners(width=width, height=height)
    for left, top, right, bottom in corners:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        seen[top:bottom, left:right] = True
    assert {(right - left, bottom - top) for left, top, right, bottom in corners} == {
        (corners[0][2] - corners[0][0], corners[0][3] - corners[0][1])
    }
    assert (corners[0][2] - corners[0][0]) % 2 == (corners[0][3] - corners[0][1]) % 2 == 0
    assert seen[: height - 1, : width - 1].all()  # an odd last row or column may be left out: sizes are even


def test_a_frame_is_a_window_of_the_image_at_the_networks_size_as_the_server_fits_it(ramp: Sample) -> None:
    motion = Motion(frames=4, window=0.5, path="across")
    clip = motion.load(ramp, spec=SPEC, sampling=Sampling(frames=4))
    pixels = cv2.imread(str(ramp.path), cv2.IMREAD_GRAYSCALE)
    assert clip.frames.shape == (4, 8, 8, 1)
    for frame, left in zip(clip.frames, (0, 10, 20, 30), strict=True):
        assert np.array_equal(frame, fit(pixels[:, left : left + 30], spec=SPEC))


def test_sampling_takes_its_frames_from_those_of_the_motion(ramp: Sample) -> None:
    motion = Motion(frames=8, window=0.5, path="across")
    every = motion.load(ramp, spec=SPEC, sampling=Sampling(frames=8)).frames
    clip = motion.load(ramp, spec=SPEC, sampling=Sampling(frames=2))
    assert clip.indices == (2, 6)
    assert np.array_equal(clip.frames, every[[2, 6]])


def test_an_image_on_its_side_is_turned_before_the_window_moves(ramp: Sample) -> None:
    motion = Motion(frames=4, window=0.5, path="down")
    upright = motion.load(ramp, spec=SPEC, sampling=Sampling(frames=4)).frames
    turned = Image.fromarray(np.rot90(cv2.imread(str(ramp.path), cv2.IMREAD_GRAYSCALE)))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    file = ramp.path.with_name("side.png")
    turned.save(file, exif=exif)
    sample = Sample(file, None, "x", "g", "train")
    assert np.array_equal(motion.load(sample, spec=SPEC, sampling=Sampling(frames=4)).frames, upright)


def test_a_data_set_with_motion_loads_clips_of_its_images_and_videos_as_they_are(ramp: Sample, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for number in range(3):
        (root / "moves/clip").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"moves/clip/{number}.png"), np.full((8, 8), number, np.uint8))
    (root / "still").mkdir()
    (root / "still/a.png").write_bytes(ramp.path.read_bytes())
    dataset = Dataset.open(root, motion=Motion(frames=5))
    lengths = {
        sample.label: len(dataset.load(sample, spec=SPEC, sampling=Sampling(frames=16)).frames)
        for sample in dataset.samples
    }
    assert lengths == {"moves": 3, "still": 5}


@pytest.mark.parametrize("wrong", [{"frames": 1}, {"frames": 8, "window": 1.0}, {"frames": 8, "path": "round"}, {}])
def test_a_motion_that_shows_nothing_move_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Motion.model_validate(wrong)
