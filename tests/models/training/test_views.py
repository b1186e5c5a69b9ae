"""Views drawn anew every epoch: of many clips at once, each by its own numbers."""

import numpy as np
import pytest

from models.schedule import Augmentation
from models.training.views import Views, uniforms

NOTHING = Augmentation(flip=False, shift=False)
KEYS = np.arange(8, dtype=np.uint64) + np.uint64(2**60)


def pictures(count: int = 8, frames: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.repeat(rng.integers(0, 256, (1, 12, 18, 3), np.uint8), frames, axis=0) for _ in range(count)]


def draw(plan: Augmentation, clips: list[np.ndarray], *, frames: int = 1, seed: int = 0) -> np.ndarray:
    return Views.draw(plan, KEYS[: len(clips)], seed=(seed, 0)).apply(clips, frames=frames)


def test_numbers_are_uniform_and_depend_on_the_key_and_the_seed_alone() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 4000, np.uint64)
    found = uniforms(keys, seed=(1, 2), count=3)
    assert found.min() >= 0
    assert found.max() < 1
    assert found.mean(0) == pytest.approx([0.5] * 3, abs=0.02)
    assert found.std(0) == pytest.approx([12**-0.5] * 3, abs=0.01)
    assert abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.06
    assert np.array_equal(uniforms(keys[::-1][:5], seed=(1, 2), count=3), found[::-1][:5])
    assert not np.array_equal(uniforms(keys, seed=(1, 3), count=3), found)


def test_neighbouring_keys_have_nothing_in_common() -> None:
    found = uniforms(np.arange(3000, dtype=np.uint64), seed=(0, 0), count=2)
    assert abs(np.corrcoef(found[:-1, 0], found[1:, 0])[0, 1]) < 0.06
    assert len(np.unique(found)) == found.size


def test_a_plan_that_changes_nothing_gives_the_servers_frames() -> None:
    clips = pictures()
    assert np.array_equal(draw(NOTHING, clips), np.stack(clips).astype(np.float32))
    clip = np.random.default_rng(2).integers(0, 256, (48, 4, 6, 3), np.uint8)
    assert np.array_equal(draw(NOTHING, [clip], frames=16)[0], clip[1::3])


def test_a_clips_view_does_not_depend_on_those_beside_it() -> None:
    plan = Augmentation(crop=0.6, rotation=20, translate=0.1, brightness=0.2, contrast=0.3, saturation=0.3)
    clips = pictures()
    together = draw(plan, clips)
    alone = Views.draw(plan, KEYS[5:6], seed=(0, 0)).apply(clips[5:6], frames=1)
    assert together[5] == pytest.approx(alone[0], abs=1e-3)


def test_what_stands_still_stands_still_in_every_view() -> None:
    plan = Augmentation(
        crop=0.5, rotation=30, translate=0.2, flip_vertical=True, window=0.5, saturation=0.4, contrast=0.5
    )
    views = draw(plan, pictures(frames=12), frames=5)
    assert views.shape == (8, 5, 12, 18, 3)
    assert (views == views[:, :1]).all()


@pytest.mark.parametrize(("plan", "axis"), [({"flip": True}, 2), ({"flip_vertical": True}, 1)])
def test_about_half_are_mirrored(plan: dict[str, bool], axis: int) -> None:
    clips = pictures(1) * 200
    keys = np.arange(200, dtype=np.uint64)
    views = Views.draw(NOTHING.model_copy(update=plan), keys, seed=(0,)).apply(clips, frames=1)
    mirrored = [np.array_equal(view, np.flip(clips[0], axis)) for view in views]
    assert all(flipped or np.array_equal(view, clips[0]) for view, flipped in zip(views, mirrored, strict=True))
    assert 70 < sum(mirrored) < 130


def test_a_point_goes_where_the_matrix_says() -> None:
    """The bright pixel of a view lies where the matrix, view to clip, leads back to the clip's bright pixel."""
    clip = np.zeros((1, 41, 41, 1), np.uint8)
    clip[0, 18:21, 24:27] = 255
    plan = NOTHING.model_copy(update={"rotation": 25.0, "translate": 0.1, "flip": True})
    views = Views.draw(plan, KEYS, seed=(4,))
    for view, matrix in zip(views.apply([clip] * 8, frames=1), views.matrices(height=41, width=41), strict=True):
        weights = view[0, ..., 0] / view.sum()
        rows, columns = np.mgrid[:41, :41]
        center = np.array([(weights * columns).sum(), (weights * rows).sum(), 1.0])
        assert matrix @ center == pytest.approx([25, 19], abs=0.3)


def test_a_crop_of_half_shows_everything_twice_as_large() -> None:
    plan = NOTHING.model_copy(update={"crop": 0.5})
    matrices = Views(plan, np.zeros((1, 18))).matrices(height=20, width=40)
    assert np.array_equal(matrices[0, :, :2], np.eye(2))  # numbers of 0: the whole picture
    matrices = Views(plan, np.full((1, 18), 1.0)).matrices(height=20, width=40)
    assert matrices[0] == pytest.approx(np.array([[0.5, 0, 19.75], [0, 0.5, 9.75]]))  # the lower right quarter


def test_a_map_moves_as_its_picture_and_holds_no_number_between() -> None:
    plan = Augmentation(crop=0.7, rotation=30, translate=0.1, flip_vertical=True)
    picture = np.zeros((1, 32, 32, 1), np.uint8)
    picture[0, 5:17, 8:25] = 200
    views = Views.draw(plan, KEYS, seed=(0,))
    maps = views.apply_to_maps([np.where(picture[0, ..., 0] > 0, 3, 1).astype(np.uint8)] * 8)
    for seen, classes in zip(views.apply([picture] * 8, frames=1), maps, strict=True):
        assert set(np.unique(classes)) <= {1, 3}
        assert ((seen[0, ..., 0] > 100) == (classes == 3)).mean() > 0.97


def test_at_most_the_share_of_frames_is_hidden_under_the_mean_in_a_row() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (10, 6, 6, 1), np.uint8) for _ in range(8)]
    views = draw(NOTHING.model_copy(update={"mask": 0.4}), clips, frames=10)
    counts = []
    for view, clip in zip(views, clips, strict=True):
        hidden = [t for t in range(10) if np.ptp(view[t]) == 0]
        counts.append(len(hidden))
        assert hidden == list(range(hidden[0], hidden[0] + len(hidden))) if hidden else True
        assert all(view[t].mean() == pytest.approx(clip.mean(), abs=0.01) for t in hidden)
        assert all(np.array_equal(view[t], clip[t]) for t in range(10) if t not in hidden)
    assert max(counts) <= 4
    assert len(set(counts)) > 1


def test_colours_move_within_their_bounds_and_the_range() -> None:
    clips = [np.full((1, 4, 4, 3), 100, np.uint8)] * 8
    views = draw(NOTHING.model_copy(update={"brightness": 0.1}), clips)
    moved = views[:, 0, 0, 0, 0] - 100
    assert (abs(moved) <= 25.5).all()
    assert len(np.unique(moved)) == 8
    bright = draw(NOTHING.model_copy(update={"brightness": 1.0, "contrast": 1.0}), pictures())
    assert bright.min() >= 0
    assert bright.max() <= 255


def test_windows_stay_within_the_clip_in_order_and_evenly_spaced() -> None:
    views = Views.draw(Augmentation(window=0.5), KEYS, seed=(3,))
    times = views.times([1000] * 8, frames=10)
    assert times.min() >= 0
    assert times.max() < 1000
    steps = np.diff(times, axis=1)
    assert (np.ptp(steps, axis=1) <= 1).all()
    assert (steps.min() >= 49) & (steps.max() <= 101)
    assert len(np.unique(times[:, 0])) == 8
