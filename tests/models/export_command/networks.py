"""Networks small enough to export in a second, and what their bundles answer."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from models.export.runtime import Runtime
from service.bundle.store import Bundle


def cnn(size: int | None = 16, channels: int = 3) -> keras.Model:
    """Single frames to features."""
    frame = keras.Input((size, size, channels))
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="conv")(frame)
    return keras.Model(frame, layers.GlobalAveragePooling2D()(x))


def images(size: int | None = 16, *, channels: int = 3, activation: str | None = "softmax") -> keras.Model:
    keras.utils.set_random_seed(1)
    frames = cnn(size, channels)
    dense = layers.Dense(
        3, activation=activation, name="classes", kernel_initializer=keras.initializers.RandomNormal(0, 3)
    )
    return keras.Model(frames.input, dense(frames.output))


def answers(bundle: Bundle, clips: np.ndarray) -> np.ndarray:
    encoder, head = (Runtime(bundle.file(role).read_bytes()) for role in ("encoder", "head"))
    features = encoder(clips.reshape(-1, *clips.shape[2:]))["features"]
    return head(features.reshape(*clips.shape[:2], -1))["probabilities"]


def clips_of(model_frames: int = 5) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (2, model_frames, 16, 16, 3), np.uint8)
