"""A picture read line by line by two LSTMs, held back in every way at once: BatchNorm, dropout and a strong L2 penalty."""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers
from pydantic import Field
from typing_extensions import override

from models.zoo.architecture import Architecture
from models.zoo.seeds import Seeds
from models.zoo.steps import Scan, in_steps
from service.bundle.manifest import Input


class RowLstmRegularized(Architecture):
    """The parameters of `row_lstm_regularized`; `steps` are the lines of the picture where it is not given."""

    name: Literal["row_lstm_regularized"]
    scan: Scan = "rows"
    steps: int | None = Field(default=None, ge=1)
    units: tuple[int, int] = (128, 64)
    hidden: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0, lt=1)

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Images `[B, H, W, C]` of 0…255 → probabilities `[B, classes]`.

        Lines `[B, steps, …]` of 0…1 → LSTM(`units`[0]) → BatchNorm → Dropout → LSTM(`units`[1]) → Dense(`hidden`) → Dense softmax.
        `weight_decay` is an L2 penalty on the kernels of both LSTMs and of Dense(`hidden`); recurrent kernels begin orthogonal and are
        not penalised. The LSTMs keep to what cuDNN's kernel can do. Raises RecipeError where the picture does not come
        out even in `steps`.
        """
        seeds = Seeds(seed, weight_decay=self.weight_decay)

        def recurrent(size: int, *, sequences: bool, name: str) -> keras.Layer:
            orthogonal = seeds.orthogonal()
            return layers.LSTM(
                size, return_sequences=sequences, recurrent_initializer=orthogonal, name=name, **seeds.kernel()
            )

        images = keras.Input((input.height, input.width, input.channels), name="images")
        x = layers.Rescaling(1 / 255, name="normalise")(images)
        x = in_steps(x, scan=self.scan, steps=self.steps)
        x = recurrent(self.units[0], sequences=True, name="lstm")(x)
        x = layers.BatchNormalization(name="standardise")(x)
        x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop")(x)
        x = recurrent(self.units[1], sequences=False, name="summary")(x)
        x = layers.Dense(self.hidden, activation="relu", name="hidden", **seeds.kernel())(x)
        classify = layers.Dense(classes, activation="softmax", kernel_initializer=seeds.glorot(), name="classify")
        return keras.Model(images, classify(x), name="row_lstm_regularized")
