"""A picture read line by line: embedded pixels, an LSTM over the lines, self-attention over its states."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import layers
from pydantic import Field

from models.zoo.steps import Scan, in_steps
from service.bundle.manifest import Frozen, Input

_LEVELS = 256  # of a byte


class RowLstm(Frozen):
    """The parameters of `row_lstm`; `steps` are the lines of the picture where it is not given."""

    name: Literal["row_lstm"]
    scan: Scan = "rows"
    steps: int | None = Field(default=None, ge=1)
    embedding: int = Field(default=4, ge=1)
    units: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def pretrained(self) -> bool:
        return False

    @property
    def trainable(self) -> bool:
        return True

    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:  # noqa: A002, ARG002 -- as every architecture's
        shape = (input.height, input.width, input.channels)
        return row_lstm(classes=classes, shape=shape, seed=seed, **self.model_dump(exclude={"name"}))


def row_lstm(
    *,
    classes: int,
    shape: tuple[int, int, int] = (28, 28, 1),
    scan: Scan = "rows",
    steps: int | None = None,
    embedding: int = 4,
    units: int = 128,
    dropout: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """Images `[B, H, W, C]` of 0…255 → probabilities `[B, classes]`.

    Embedding of each pixel's level in `embedding` numbers → those of a line side by side, `[B, steps, …]` → LSTM(`units`) →
    dot-product self-attention → mean over the steps → Dropout → Dense softmax. The LSTM keeps to what cuDNN's kernel can do. `seed`
    fixes the first weights and the dropout. Raises RecipeError where the picture does not come out even in `steps`.
    """
    seeds = iter(range(seed * 100, seed * 100 + 100))
    images = keras.Input(shape, name="images")
    levels = layers.Embedding(_LEVELS, embedding, name="embed")
    x = levels(images)
    levels.embeddings.assign(_on_a_line(embedding, seed=next(seeds)))
    x = in_steps(x, scan=scan, steps=steps or shape[0 if scan == "rows" else 1])
    x = layers.LSTM(
        units,
        return_sequences=True,
        kernel_initializer=keras.initializers.GlorotUniform(next(seeds)),
        recurrent_initializer=keras.initializers.Orthogonal(seed=next(seeds)),
        name="lstm",
    )(x)
    x = layers.Attention(name="attention")([x, x])
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    x = layers.Dropout(dropout, seed=next(seeds), name="drop")(x)
    first = keras.initializers.GlorotUniform(next(seeds))
    probabilities = layers.Dense(classes, activation="softmax", kernel_initializer=first, name="classify")(x)
    return keras.Model(images, probabilities, name="row_lstm")


def _on_a_line(size: int, *, seed: int) -> Any:
    """`[256, size]`: black is the origin, white a random point, and grey lies between them.

    Levels that look alike then begin alike; from random places each of the 256 would be learned by itself, and most are rare.
    """
    white = np.random.default_rng(seed).uniform(-1.0, 1.0, size)
    return (np.linspace(0.0, 1.0, _LEVELS)[:, None] * white).astype(np.float32)
