"""The 3D CNN: its number of frames, sizes that last, and the change between frames beside them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from models.errors import RecipeError
from models.zoo.cnn3d import Cnn3d
from service.bundle.manifest import Input

SIZE = Input(height=16, width=24, color="gray")


def build(seed: int = 0, frames: int = 5, **parameters: Any) -> keras.Model:
    return Cnn3d(name="cnn3d", filters=(3, 4), **parameters).build(classes=3, input=SIZE, frames=frames, seed=seed)


def clips(frames: int) -> np.ndarray:
    return np.random.default_rng(frames).integers(0, 256, (2, frames, 16, 24, 1)).astype(np.float32)


def test_it_takes_as_many_frames_as_it_was_built_for_down_to_a_picture() -> None:
    for frames in (1, 7):
        answers = np.asarray(build(frames=frames)(clips(frames)))
        assert answers.shape == (2, 3)
        assert answers.sum(1) == pytest.approx(np.ones(2), abs=1e-5)


def test_blocks_that_would_leave_nothing_of_the_frame_are_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"4 blocks of cnn3d halve the frame 5 times, and 16×24 pixels do not last; give 32"
    ):
        Cnn3d(name="cnn3d").build(classes=2, input=SIZE, frames=4, seed=0)


def test_the_change_between_frames_stands_beside_them_and_is_nothing_where_nothing_moves() -> None:
    model = build(change="differences")
    assert model.get_layer("block0_conv").kernel.shape[-2] == 2
    differences = keras.Model(model.input, model.get_layer("differences").output)
    moving = clips(5)
    seen = np.asarray(differences(moving))
    assert seen[:, 1:, ..., 1] == pytest.approx(np.diff(moving[..., 0], axis=1) / 127.5, abs=1e-5)
    still = np.repeat(moving[:, :1], 5, axis=1)
    assert not np.asarray(differences(still))[..., 1].any()


def test_the_seed_fixes_its_first_weights() -> None:
    first, again, other = (build(seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))
