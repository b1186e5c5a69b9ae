"""A picture read line by line by two LSTMs, held back in every way at once: BatchNorm, dropout and a strong L2 penalty."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers
from pydantic import Field

from models.zoo.steps import Scan, in_steps
from service.bundle.manifest import Frozen, Input


class RowLstmRegularized(Frozen):
    """The parameters of `row_lstm_regularized`; `steps` are the lines of the picture where it is not given."""

    name: Literal["row_lstm_regularized"]
    scan: Scan = "rows"
    steps: int | None = Field(default=None, ge=1)
    units: tuple[int, int] = (128, 64)
    hidden: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0, lt=1)

    @property
    def pretrained(self) -> bool:
        return False

    @property
    def trainable(self) -> bool:
        return True

    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:  # noqa: A002, ARG002 -- as every architecture's
        shape = (input.height, input.width, input.channels)
        return row_lstm_regularized(classes=classes, shape=shape, seed=seed, **self.model_dump(exclude={"name"}))


def row_lstm_regularized(
    *,
    classes: int,
    shape: tuple[int, int, int] = (28, 28, 1),
    scan: Scan = "rows",
    steps: int | None = None,
    units: tuple[int, int] = (128, 64),
    hidden: int = 32,
    dropout: float = 0.3,
    weight_decay: float = 0.01,
    seed: int = 0,
) -> keras.Model:
    """Images `[B, H, W, C]` of 0…255 → probabilities `[B, classes]`.

    Lines `[B, steps, …]` of 0…1 → LSTM(`units`[0]) → BatchNorm → Dropout → LSTM(`units`[1]) → Dense(`hidden`) → Dense softmax.
    `weight_decay` is an L2 penalty on the kernels of both LSTMs and of Dense(`hidden`); recurrent kernels begin orthogonal and are
    not penalised. The LSTMs keep to what cuDNN's kernel can do. `seed` fixes the first weights and the dropout. Raises RecipeError
    where the picture does not come out even in `steps`.
    """
    seeds = iter(range(seed * 100, seed * 100 + 100))
    penalty = keras.regularizers.L2(weight_decay) if weight_decay else None

    def kernel() -> dict[str, Any]:
        return {"kernel_initializer": keras.initializers.GlorotUniform(next(seeds)), "kernel_regularizer": penalty}

    def recurrent(size: int, *, sequences: bool, name: str) -> keras.Layer:
        orthogonal = keras.initializers.Orthogonal(seed=next(seeds))
        return layers.LSTM(size, return_sequences=sequences, recurrent_initializer=orthogonal, name=name, **kernel())

    images = keras.Input(shape, name="images")
    x = layers.Rescaling(1 / 255, name="normalise")(images)
    x = in_steps(x, scan=scan, steps=steps or shape[0 if scan == "rows" else 1])
    x = recurrent(units[0], sequences=True, name="lstm")(x)
    x = layers.BatchNormalization(name="standardise")(x)
    x = layers.Dropout(dropout, seed=next(seeds), name="drop")(x)
    x = recurrent(units[1], sequences=False, name="summary")(x)
    x = layers.Dense(hidden, activation="relu", name="hidden", **kernel())(x)
    first = keras.initializers.GlorotUniform(next(seeds))
    probabilities = layers.Dense(classes, activation="softmax", kernel_initializer=first, name="classify")(x)
    return keras.Model(images, probabilities, name="row_lstm_regularized")
