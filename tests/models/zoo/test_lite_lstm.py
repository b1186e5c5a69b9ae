"""The light CNN-LSTM: small, of any length, and blind to light and camera where it is asked to be."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from models.errors import RecipeError
from models.recipe import Recipe
from models.zoo.architecture import ENCODE
from models.zoo.lite_lstm import LiteLstm
from service.bundle.manifest import Input

SIZE = Input(height=16, width=32, color="gray")


def build(**parameters: Any) -> keras.Model:
    architecture = LiteLstm(name="lite_lstm", stem=4, filters=(6, 8), units=5, **parameters)
    return architecture.build(classes=3, input=SIZE, frames=4, seed=0)


def clips(frames: int) -> np.ndarray:
    return np.random.default_rng(frames).integers(40, 120, (2, frames, 16, 32, 1)).astype(np.float32)


def test_the_recipe_that_ships_stays_under_a_million_parameters() -> None:
    assert Recipe.read("lite_lstm_words").build(classes=10).count_params() < 1_000_000


@pytest.mark.parametrize("bidirectional", [False, True])
def test_it_takes_clips_of_any_length_and_keeps_where_in_the_frame_something_is(bidirectional: bool) -> None:
    model = build(grid=(2, 4), bidirectional=bidirectional)
    assert model.get_layer(ENCODE).output.shape[-1] == 2 * 4 * 8
    for frames in (1, 6):
        assert np.asarray(model(clips(frames))).sum(1) == pytest.approx(np.ones(2), abs=1e-5)


def test_a_grid_that_does_not_divide_the_maps_is_refused() -> None:
    with pytest.raises(RecipeError, match="a grid of 3×4 cells does not divide maps of 4×8"):
        build(grid=(3, 4))


def test_scaled_by_frame_it_does_not_see_how_bright_or_pale_the_picture_is() -> None:
    bright = 3 * (clips(5)[0] - 40)  # so rich in contrast that half of it still counts as such

    def change(model: keras.Model) -> float:
        features = model.get_layer(ENCODE).layer
        seen = np.asarray(features(bright))
        return float(np.abs(np.asarray(features(0.5 * bright + 20)) - seen).max() / np.abs(seen).max())

    assert change(build(scale="frame")) < 1e-2 < 0.1 < change(build(scale="range"))
