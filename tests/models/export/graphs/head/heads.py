"""Heads of one layer of interest, and the check that what is written of them gives what Keras gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
from keras import layers

from models.export.graphs.head import head_onnx
from models.export.runtime import Runtime
from models.export.split.reference import Reference

DIM = 6
SHAPES = ((1, 1), (2, 7), (3, 12))
Build = Callable[[Any], Any]


def head_of(build: Build, *, frames: int | None = None) -> keras.Model:
    """A head of `build` on features `[B, T, 6]`, with weights and statistics that are not those of a new model."""
    keras.utils.set_random_seed(11)
    features = keras.Input((frames, DIM))
    built = build(features)
    model = keras.Model(features, built if isinstance(built, dict) else {"probabilities": built})
    random = np.random.default_rng(4)
    for weight in model.weights:
        positive = "variance" in weight.path or "gamma" in weight.path
        weight.assign(random.uniform(0.5, 1.5, weight.shape) if positive else random.normal(0, 0.5, weight.shape))
    return model


def agree(model: keras.Model, *, shapes: tuple[tuple[int, int], ...] = SHAPES) -> onnx.ModelProto:
    written = head_onnx(model)
    run, random = Runtime(written), np.random.default_rng(8)
    for batch, frames in shapes:
        features = random.normal(size=(batch, frames, DIM)).astype(np.float32)
        wanted = Reference(model, model).probabilities(features)
        for name, found in run(features).items():
            np.testing.assert_allclose(found, wanted[name], atol=2e-6, err_msg=f"{name} at {batch}, {frames}")
    return written


def classify(x: Any) -> Any:
    return layers.Dense(3, activation="softmax")(x)


def last(x: Any) -> Any:
    """`[B, T, D]` → `[B, 3]` without a layer of interest."""
    return classify(layers.GlobalAveragePooling1D()(x))
