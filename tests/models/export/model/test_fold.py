"""A BatchNorm that is folded away changes nothing but the number of layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from models.export.model.fold import fold_batchnorm, round_half

BEFORE = {
    "Conv2D": lambda: layers.Conv2D(5, 3, use_bias=False),
    "Conv2D with a bias": lambda: layers.Conv2D(5, 3, strides=2, padding="same"),
    "grouped Conv2D": lambda: layers.Conv2D(8, 3, groups=2),
    "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
    "SeparableConv2D": lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2),
    "Conv2DTranspose": lambda: layers.Conv2DTranspose(5, 3, strides=2),
    "Dense": lambda: layers.Dense(5),
}


def shaken(model: keras.Model) -> keras.Model:
    random = np.random.default_rng(2)
    for weight in model.weights:
        positive = "variance" in weight.path
        weight.assign(random.uniform(0.2, 3, weight.shape) if positive else random.normal(0, 0.7, weight.shape))
    return model


def images(channels: int = 4) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(2, 9, 9, channels)).astype(np.float32)


@pytest.mark.parametrize("name", BEFORE)
def test_a_batchnorm_after_a_linear_layer_is_folded_into_it(name: str) -> None:
    frames = keras.Input((9, 9, 4))
    x = layers.BatchNormalization(epsilon=0.01, scale="bias" not in name)(BEFORE[name]()(frames))
    model = shaken(keras.Model(frames, layers.ReLU()(x)))
    folded, count = fold_batchnorm(model)
    assert count == 1
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    np.testing.assert_allclose(folded(images()), model(images(), training=False), atol=1e-4, rtol=1e-4)


def test_a_batchnorm_in_a_nested_model_is_folded() -> None:
    frames = keras.Input((9, 9, 4))
    inner = keras.Sequential([keras.Input((9, 9, 4)), layers.Conv2D(4, 3), layers.BatchNormalization()])
    model = shaken(keras.Model(frames, inner(frames)))
    folded, count = fold_batchnorm(model)
    assert count == 1
    np.testing.assert_allclose(folded(images()), model(images(), training=False), atol=1e-4, rtol=1e-4)


def relu_between(x: Any) -> Any:
    return layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(x))


def read_twice(x: Any) -> Any:
    y = layers.Conv2D(4, 3)(x)
    return layers.Add()([y, layers.BatchNormalization()(y)])


def shared_norm(x: Any) -> Any:
    norm = layers.BatchNormalization()
    return layers.Add()([norm(layers.Conv2D(4, 3)(x)), norm(layers.Conv2D(4, 3)(x))])


def norm_first(x: Any) -> Any:
    return layers.Conv2D(4, 3)(layers.BatchNormalization()(x))


@pytest.mark.parametrize("build", [relu_between, read_twice, shared_norm, norm_first])
def test_what_cannot_be_folded_is_kept_and_right(build: Any) -> None:
    frames = keras.Input((9, 9, 4))
    model = shaken(keras.Model(frames, build(frames)))
    folded, count = fold_batchnorm(model)
    assert count == 0
    np.testing.assert_allclose(folded(images()), model(images(), training=False), atol=1e-5)


def test_rounding_keeps_biases_and_changes_kernels_to_what_float16_holds() -> None:
    frames = keras.Input((9, 9, 4))
    model = shaken(keras.Model(frames, layers.Conv2D(5, 3)(frames)))
    kernel, bias = (weight.numpy() for weight in model.weights)
    round_half(model)
    rounded, kept = (weight.numpy() for weight in model.weights)
    np.testing.assert_array_equal(kept, bias)
    np.testing.assert_array_equal(rounded, kernel.astype(np.float16).astype(np.float32))
    assert not np.array_equal(rounded, kernel)
