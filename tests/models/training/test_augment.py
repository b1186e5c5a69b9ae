"""Views differ from the clip as the plan says, and treat all its frames alike."""

import numpy as np
import pytest

from models.schedule import Augmentation
from models.training.augment import View


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


def test_what_came_later_leaves_the_views_of_older_recipes_as_they_were() -> None:
    plan = Augmentation(views=1, crop=0.5, brightness=0.2, contrast=0.5, saturation=0.5, window=0.5)
    old = View.draw(plan, frames=8, seed=(5,))
    new = View.draw(
        plan.model_copy(update={"rotation": 20.0, "translate": 0.1, "flip_vertical": True, "mask": 0.5}),
        frames=8,
        seed=(5,),
    )
    for name in ("flip", "box", "brightness", "contrast", "saturation", "window", "offset"):
        assert getattr(old, name) == getattr(new, name)
    assert (old.rotation, old.translate, old.hidden[1], old.flip_vertical) == (0.0, (0.0, 0.0), 0, False)
    assert new.rotation != 0.0


def test_a_map_moves_as_the_frames_do() -> None:
    picture = np.zeros((1, 32, 32, 1), np.uint8)
    picture[0, 5:17, 8:25] = 200
    plan = Augmentation(views=1, crop=0.7, rotation=30, translate=0.1, flip_vertical=True)
    for seed in range(8):
        view = View.draw(plan, frames=1, seed=(seed,))
        seen = view.apply(picture)[0, ..., 0]
        classes = view.apply_to_map(np.where(picture[0, ..., 0] > 0, 3, 1).astype(np.uint8))
        assert set(np.unique(classes)) <= {1, 3}
        assert ((seen > 100) == (classes == 3)).mean() > 0.95


def test_frames_in_a_row_are_hidden_under_the_mean() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 1), np.uint8)
    plan = Augmentation(views=1, flip=False, shift=False, mask=0.4)
    counts = []
    for seed in range(10):
        view = View.draw(plan, frames=10, seed=(seed,))
        first, count = view.hidden
        seen = view.apply(clip)
        counts.append(count)
        assert all((np.ptp(seen[t]) == 0) == (first <= t < first + count) for t in range(10))
    assert max(counts) == 4
    assert min(counts) == 0
