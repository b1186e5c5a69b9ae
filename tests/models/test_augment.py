"""Views differ from the clip as the plan says, and treat all its frames alike."""

import numpy as np
import pytest

from models.augment import View
from models.schedule import Augmentation


def still(frames: int = 12) -> np.ndarray:
    """A clip that does not move: the same random picture over and over."""
    picture = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    return np.repeat(picture[None], frames, axis=0)


EVERYTHING = Augmentation(views=1, crop=0.5, brightness=0.2, contrast=0.5, saturation=0.5, window=0.5)


@pytest.mark.parametrize("seed", range(8))
def test_what_stands_still_stands_still_in_every_view(seed: int) -> None:
    view = View.draw(EVERYTHING, frames=5, seed=(seed,)).apply(still())
    assert view.shape == (5, 20, 30, 3)
    assert view.dtype == np.uint8
    assert (view == view[:1]).all()


def test_a_seed_gives_one_view_and_another_seed_another() -> None:
    clip = still()
    views = [View.draw(EVERYTHING, frames=4, seed=seed).apply(clip) for seed in ((1, 2), (1, 2), (1, 3))]
    assert np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


def test_a_plan_that_changes_nothing_gives_the_servers_frames() -> None:
    plan = Augmentation(flip=False, shift=False)
    clip = np.random.default_rng(2).integers(0, 256, (48, 4, 6, 3), np.uint8)
    view = View.draw(plan, frames=16, seed=(0,))
    assert view.times(48).tolist() == [int((i + 0.5) * 48 / 16) for i in range(16)]
    assert np.array_equal(view.apply(clip), clip[1::3])


def test_about_half_of_the_views_are_mirrored() -> None:
    clip = still(1)
    plan = Augmentation(shift=False)
    views = [View.draw(plan, frames=1, seed=(seed,)).apply(clip) for seed in range(200)]
    mirrored = [np.array_equal(view, clip[:, :, ::-1]) for view in views]
    assert all(flipped or np.array_equal(view, clip) for view, flipped in zip(views, mirrored, strict=True))
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("seed", range(8))
def test_frames_stay_in_order_evenly_spaced_and_within_the_window(seed: int) -> None:
    view = View.draw(Augmentation(window=0.5), frames=10, seed=(seed,))
    times = view.times(1000)
    start, length = view.window
    assert 0.5 <= length <= 1.0
    assert np.ptp(np.diff(times)) <= 1
    assert start * 1000 - 1 <= times[0] < times[-1] < (start + length) * 1000


def test_a_grey_clip_keeps_its_channel() -> None:
    assert View.draw(EVERYTHING, frames=3, seed=(0,)).apply(still()[..., :1]).shape == (3, 20, 30, 1)


def test_brightness_and_contrast_move_the_whole_clip() -> None:
    clip = np.full((4, 8, 8, 3), 100, np.uint8)
    view = View.draw(Augmentation(brightness=1.0), frames=4, seed=(3,))
    expected = np.clip(np.rint(100 + 255 * view.brightness), 0, 255)
    assert np.array_equal(view.apply(clip), np.full_like(clip, expected))
