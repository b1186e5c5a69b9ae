"""Networks of keras.applications under a classifier: fed bytes, they say what their authors' own preprocessing makes them say."""

from __future__ import annotations

import importlib

import keras
import numpy as np
import pytest

from models.errors import RecipeError
from models.zoo.backbones import backbone
from models.zoo.cnn import Cnn
from service.bundle.manifest import Input


@pytest.mark.parametrize(
    ("name", "module", "until"),
    [("VGG16", "vgg16", "block2_pool"), ("MobileNetV2", "mobilenet_v2", "block_1_project_BN")],
)
def test_a_network_is_fed_as_its_authors_feed_it(name: str, module: str, until: str) -> None:
    found = backbone(name, height=32, width=48, until=until, weights=None)
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3)).astype(np.float32)
    preprocess = importlib.import_module(f"keras.applications.{module}").preprocess_input
    theirs = keras.Model(found.layers[1].input, found.output)  # from the first layer behind the preprocessing on
    assert np.asarray(found(frames)) == pytest.approx(np.asarray(theirs(preprocess(frames.copy()))), abs=1e-4)
    assert np.abs(np.asarray(found(frames)) - np.asarray(theirs(frames))).max() > 0.01


def test_what_keras_does_not_have_and_sizes_it_does_not_take_are_named() -> None:
    with pytest.raises(RecipeError, match=r"no backbone 'ResNet51'; choose efficientnet_lite0, or one of .* ResNet50"):
        backbone("ResNet51")
    with pytest.raises(RecipeError, match=r"VGG16 of keras\.applications does not take 20×20 pixels"):
        backbone("VGG16", height=20, width=20, weights=None)
    with pytest.raises(RecipeError, match="vgg16 has no layer 'block7'; choose top"):
        backbone("VGG16", height=32, width=32, until="block7", weights=None)


def test_a_recipe_says_none_for_random_weights_and_need_not_train_them() -> None:
    random = Cnn.model_validate({"name": "cnn", "backbone": "VGG16", "weights": "none"})
    assert (random.weights, random.pretrained, random.trainable) == (None, False, False)
    assert Cnn(name="cnn").trainable


def test_a_backbone_is_not_fed_grey_pictures() -> None:
    grey = Input(height=32, width=32, color="gray")
    with pytest.raises(
        RecipeError, match=r'backbone efficientnet_lite0 reads colours, and input.color is "gray"; make it'
    ):
        Cnn(name="cnn").build(classes=2, input=grey, frames=1, seed=0)
