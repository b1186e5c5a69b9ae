"""Noise is refused with a sentence, pictures of every kind pass, and frames of another brightness are spoken of."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from models.errors import DataError
from models.quantize.frames import check_pictures, unlike
from tests.models.quantize.digits import Digits


def noise(count: int = 40, *, channels: int = 3, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 24, channels), np.uint8)


def patches(count: int = 64) -> NDArray[np.uint8]:
    """Squares of two photographs."""
    random = np.random.default_rng(2)
    photos = load_sample_images().images
    found = []
    for number in range(count):
        photo = photos[number % len(photos)]
        top, left = (int(random.integers(0, side - 48)) for side in photo.shape[:2])
        found.append(photo[top : top + 48, left : left + 48])
    return np.stack(found)


def tinted() -> NDArray[np.uint8]:
    """Noise around another level in each channel, which the levels must not hide."""
    return (noise() // 4 + np.array([10, 90, 180])).astype(np.uint8)


def blinking() -> NDArray[np.uint8]:
    """Noise around another level in each frame."""
    return (noise() // 4 + np.linspace(0, 190, 40)[:, None, None, None]).astype(np.uint8)


NOISES = {"rgb": noise, "grey": lambda: noise(channels=1), "tinted": tinted, "blinking": blinking}


@pytest.mark.parametrize("kind", NOISES)
def test_noise_is_refused(kind: str) -> None:
    with pytest.raises(
        DataError,
        match=r"of \d+ calibration frames \d+ are noise, no pictures: .* by less than 0\.2 \(pictures: .*; .* give images or videos",
    ):
        check_pictures(NOISES[kind]())


def test_noise_is_refused_where_it_is_more_than_half() -> None:
    ramps = np.linspace(0, 255, 24)[None, None, :, None].repeat(24, axis=1).repeat(3, axis=3).astype(np.uint8)
    none, few, many = (np.concatenate([noise(count), ramps.repeat(40 - count, axis=0)]) for count in (3, 16, 24))
    assert check_pictures(none) == []
    (told,) = check_pictures(few)
    assert "of 40 calibration frames 16 are noise" in told
    with pytest.raises(DataError, match="are noise"):
        check_pictures(many)


def test_noise_behind_the_first_frames_is_found() -> None:
    ramps = np.linspace(0, 255, 24)[None, None, :, None].repeat(24, axis=1).repeat(3, axis=3).astype(np.uint8)
    with pytest.raises(DataError, match="are noise"):
        check_pictures(np.concatenate([ramps.repeat(100, axis=0), noise(300)]))


def test_photographs_pass() -> None:
    check_pictures(patches())


def test_photographs_with_the_noise_of_a_dark_camera_pass() -> None:
    dim = patches() // 4 + np.random.default_rng(3).normal(20, 6, (64, 48, 48, 3))
    check_pictures(dim.clip(0, 255).astype(np.uint8))


def test_handwritten_digits_pass(digits: Digits) -> None:
    check_pictures(digits.frames[:200])
    check_pictures(digits.frames[:200, ::2, ::2])


def test_gradients_pass_whichever_way_they_go() -> None:
    steps = np.arange(0, 240, 10, np.uint8)
    across = np.broadcast_to(steps[None, None, :, None], (32, 24, 24, 1))
    check_pictures(np.concatenate([across, across.transpose(0, 2, 1, 3)]))


def test_frames_of_one_colour_pass_and_excuse_no_noise() -> None:
    flat = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(24, 1).repeat(24, 2).repeat(3, 3)
    assert check_pictures(flat) == []
    with pytest.raises(DataError, match="are noise"):
        check_pictures(np.concatenate([flat, noise(8)]))


def test_one_picture_again_and_again_is_refused() -> None:
    with pytest.raises(DataError, match="all 64 calibration frames are the same"):
        check_pictures(np.zeros((64, 24, 24, 3), np.uint8))


def test_a_camera_at_half_brightness_is_spoken_of(digits: Digits) -> None:
    calibration, judged = digits.frames[:400], digits.frames[400:800]
    told = unlike(calibration, judged // 2, split="val")
    levels = [
        round(float(np.median(frames.mean(axis=(1, 2, 3), dtype=np.float64)))) for frames in (calibration, judged // 2)
    ]
    assert [sentence.partition(" of val in ")[2].partition(":")[0] for sentence in told] == ["brightness", "contrast"]
    assert f"median {levels[0]} against {levels[1]} of 255" in told[0]
    assert "n = 400 and 400" in told[0]


def test_less_contrast_at_the_same_brightness_is_spoken_of_alone() -> None:
    frames = patches(200).astype(np.float64)
    means = frames.mean(axis=(1, 2, 3), keepdims=True)
    told = unlike(frames.astype(np.uint8), np.round(means + (frames - means) / 3).astype(np.uint8), split="test")
    assert len(told) == 1
    assert "of test in contrast" in told[0]


def test_frames_of_the_same_kind_are_not_spoken_of(digits: Digits) -> None:
    assert unlike(digits.frames[:400], digits.frames[400:800], split="val") == []


def test_a_handful_of_frames_shows_nothing(digits: Digits) -> None:
    assert unlike(digits.frames[:5], digits.frames[5:10] // 2, split="val") == []
