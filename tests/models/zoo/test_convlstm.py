"""The ConvLSTM: as many frames as it was built for, in their order."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from models.errors import RecipeError
from models.zoo.convlstm import ConvLstm
from service.bundle.manifest import Input

SIZE = Input(height=16, width=24, color="gray")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return ConvLstm(name="convlstm", stem=3, filters=(3, 4)).build(classes=3, input=SIZE, frames=4, seed=0)


def test_it_takes_as_many_frames_as_it_was_built_for_and_reads_them_in_their_order(model: keras.Model) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 24, 1)).astype(np.float32)
    answers = np.asarray(model(clips))
    assert model.input_shape == (None, 4, 16, 24, 1)
    assert answers.sum(1) == pytest.approx(np.ones(2), abs=1e-5)
    assert np.abs(np.asarray(model(clips[:, ::-1])) - answers).max() > 1e-4


def test_the_change_between_frames_is_read_beside_them_where_it_is_asked_for() -> None:
    parameters = ConvLstm(name="convlstm", stem=3, filters=(3,), change="differences")
    reading = parameters.build(classes=3, input=SIZE, frames=4, seed=0)
    assert reading.get_layer("differences").output.shape == (None, 4, 16, 24, 2)
    assert reading.get_layer("stem").layer.kernel.shape == (3, 3, 2, 3)


def test_layers_that_would_leave_nothing_of_the_frame_are_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"4 layers of convlstm halve the frame 5 times, and 16×24 pixels do not last"
    ):
        ConvLstm(name="convlstm", filters=(2, 2, 2, 2)).build(classes=2, input=SIZE, frames=4, seed=0)
