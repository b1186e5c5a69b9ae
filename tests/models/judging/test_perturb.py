"""Frames are turned and moved as far as was said, all of a clip alike, and the same again for the same seed."""

import numpy as np
import pytest

from models.judging.perturb import Perturbation


def spot(*, row: int, column: int, size: int = 41, frames: int = 3) -> np.ndarray:
    """A soft spot on black: its place can be told to a fraction of a pixel."""
    down, across = np.mgrid[:size, :size]
    pixels = 255 * np.exp(-((down - row) ** 2 + (across - column) ** 2) / 8)
    return np.repeat(pixels.astype(np.uint8)[None, :, :, None], frames, axis=0)


def center(frame: np.ndarray) -> tuple[float, float]:
    """(row, column) of the spot."""
    weights = frame[..., 0].astype(float)
    down, across = np.mgrid[: frame.shape[0], : frame.shape[1]]
    return float((weights * down).sum() / weights.sum()), float((weights * across).sum() / weights.sum())


def test_a_spot_lies_where_the_draw_put_it() -> None:
    perturbation = Perturbation(rotate=30, shift=5)
    for name in (b"a", b"b", b"c"):
        angle, right, down = perturbation.draw(name)
        moved = perturbation.apply(spot(row=20, column=30), name=name)
        turn = np.deg2rad(angle)  # counterclockwise as one sees it: what is right goes up
        wanted = (20 - 10 * np.sin(turn) + down, 20 + 10 * np.cos(turn) + right)
        assert center(moved[0]) == pytest.approx(wanted, abs=0.1)
        assert np.array_equal(moved[0], moved[2])
        assert moved.shape == (3, 41, 41, 1)


def test_draws_fill_what_was_allowed_and_no_more() -> None:
    draws = np.array([Perturbation(rotate=15, shift=3).draw(str(number).encode()) for number in range(2000)])
    assert np.abs(draws).max(0) == pytest.approx([15, 3, 3], rel=0.01)
    assert draws.mean(0) == pytest.approx([0, 0, 0], abs=0.6)
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.06


def test_the_seed_and_the_name_decide() -> None:
    one = Perturbation(rotate=15, shift=3)
    assert one.draw(b"a") == Perturbation(rotate=15, shift=3).draw(b"a")
    assert len({one.draw(b"a"), one.draw(b"b"), Perturbation(rotate=15, shift=3, seed=1).draw(b"a")}) == 3


def test_what_comes_in_repeats_the_border_and_nothing_else_changes_without_a_draw() -> None:
    frames = np.random.default_rng(0).integers(50, 200, (2, 12, 16, 3), np.uint8)
    assert Perturbation(rotate=20, shift=4).apply(frames, name=b"a").min() >= 50
    assert np.array_equal(Perturbation().apply(frames, name=b"a"), frames)


@pytest.mark.parametrize(
    ("rotate", "shift", "said"),
    [
        (15, 3, "turned by up to ±15° and moved by up to ±3 pixels"),
        (7.5, 0, "turned by up to ±7.5°"),
        (0, 1, "moved by up to ±1 pixels"),
        (0, 0, "as they are"),
    ],
)
def test_it_says_what_it_does(rotate: float, shift: float, said: str) -> None:
    assert str(Perturbation(rotate, shift)) == said
