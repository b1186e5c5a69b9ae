"""The small CNN: its shape, and the CNN in it that features are taken from."""

import keras
import numpy as np
import pytest

from models.errors import RecipeError
from models.schedule import FRAMES
from models.training.part import Part
from models.zoo.architecture import ENCODE
from models.zoo.small_cnn import SmallCnn
from service.bundle.manifest import Input


def built(*widths: tuple[int, ...], classes: int, size: tuple[int, int]) -> keras.Model:
    grey = Input(height=size[0], width=size[1], color="gray")
    return SmallCnn(name="small_cnn", widths=widths).build(classes=classes, input=grey, frames=1, seed=0)


def test_each_part_of_the_widths_is_one_size_of_the_picture() -> None:
    model = built((4,), (6,), (8, 8), classes=10, size=(28, 20))
    encoder = model.get_layer(ENCODE)
    shapes = [layer.output.shape[1:] for layer in encoder.layers if layer.name.endswith("_relu")]
    assert shapes == [(28, 20, 4), (14, 10, 6), (7, 5, 8), (7, 5, 8)]
    assert encoder.output.shape == (None, 8)
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 20, 1)).astype(np.float32)
    assert np.asarray(model(images)).sum(1) == pytest.approx(np.ones(2), abs=1e-5)


def test_a_picture_that_cannot_be_halved_so_often_is_refused() -> None:
    with pytest.raises(RecipeError, match="a picture of 6×9 cannot be halved 3 times; give fewer widths"):
        built((4,), (4,), (4,), (4,), classes=2, size=(6, 9))


@pytest.mark.parametrize("train", [True, False])
def test_trained_as_a_whole_its_batchnorm_is_trained_with_it_unless_it_is_to_stay(*, train: bool) -> None:
    model = built((4,), classes=2, size=(8, 8))
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8, 1)).astype(np.float32)
    part = Part(model, cut=FRAMES, train_batchnorm=train)
    part(images, training=True)
    (norm,) = [layer for layer in model.get_layer(ENCODE).layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert np.asarray(norm.moving_mean).any() == train
    assert any(variable is norm.gamma for variable in part.trainable) == train
