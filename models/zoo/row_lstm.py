"""A picture read line by line: embedded pixels, an LSTM over the lines, self-attention over its states."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import layers
from pydantic import Field
from typing_extensions import override

from models.zoo.architecture import Architecture
from models.zoo.seeds import Seeds
from models.zoo.steps import Scan, in_steps
from service.bundle.manifest import Input

_LEVELS = 256  # of a byte


class RowLstm(Architecture):
    """The parameters of `row_lstm`; `steps` are the lines of the picture where it is not given."""

    name: Literal["row_lstm"]
    scan: Scan = "rows"
    steps: int | None = Field(default=None, ge=1)
    embedding: int = Field(default=4, ge=1)
    units: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Images `[B, H, W, C]` of 0…255 → probabilities `[B, classes]`.

        Embedding of each pixel's level in `embedding` numbers → those of a line side by side, `[B, steps, …]` → LSTM(`units`) →
        dot-product self-attention → mean over the steps → Dropout → Dense softmax. The LSTM keeps to what cuDNN's kernel can do.
        Raises RecipeError where the picture does not come out even in `steps`.
        """
        seeds = Seeds(seed)
        images = keras.Input((input.height, input.width, input.channels), name="images")
        levels = layers.Embedding(_LEVELS, self.embedding, name="embed")
        x = levels(images)
        levels.embeddings.assign(_on_a_line(self.embedding, seed=seeds.next()))
        x = in_steps(x, scan=self.scan, steps=self.steps)
        x = layers.LSTM(
            self.units,
            return_sequences=True,
            name="lstm",
            **seeds.kernel(),
            recurrent_initializer=seeds.orthogonal(),
        )(x)
        x = layers.Attention(name="attention")([x, x])
        x = layers.GlobalAveragePooling1D(name="mean")(x)
        x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop")(x)
        probabilities = layers.Dense(classes, activation="softmax", name="classify", **seeds.kernel())(x)
        return keras.Model(images, probabilities, name="row_lstm")


def _on_a_line(size: int, *, seed: int) -> Any:
    """`[256, size]`: black is the origin, white a random point, and grey lies between them.

    Levels that look alike then begin alike; from random places each of the 256 would be learned by itself, and most are rare.
    """
    white = np.random.default_rng(seed).uniform(-1.0, 1.0, size)
    return (np.linspace(0.0, 1.0, _LEVELS)[:, None] * white).astype(np.float32)
