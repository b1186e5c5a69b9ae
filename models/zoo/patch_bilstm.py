"""A picture read patch by patch: each is embedded, a bidirectional LSTM goes over them, and attention looks at three scales."""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers
from pydantic import Field
from typing_extensions import override

from models.errors import RecipeError
from models.zoo.architecture import Architecture
from models.zoo.seeds import Seeds
from models.zoo.stem import MOMENTUM
from service.bundle.manifest import Input

_SCALES = (1, 2, 4)  # steps that are averaged to one before attention weighs them
Embedding = Literal["linear", "conv"]


class PatchBiLstm(Architecture):
    """The parameters of `patch_bilstm`; sizes are in pixels."""

    name: Literal["patch_bilstm"]
    patch: int = Field(default=16, ge=2)
    stride: int = Field(default=8, ge=1)
    embedding: Embedding = "linear"
    width: int = Field(default=64, ge=1)
    units: int = Field(default=48, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Images `[B, H, W, C]` of 0…255 → probabilities `[B, classes]`.

        Overlapping patches, `patch` pixels a side every `stride`, each embedded in `width` numbers → their sequence, row by row (225 of a
        picture of 128 × 128) → Bidirectional LSTM(`units` each way) → additive attention over its states as they are, and over averages of
        2 and of 4 of them → Dropout → Dense softmax. `weight_decay` is an L2 penalty on every kernel. Raises RecipeError.
        """
        if min(input.height, input.width) < self.patch:
            raise RecipeError(
                f"patches of {self.patch} pixels do not fit a picture of {input.height}×{input.width}; make them smaller"
            )
        seeds = Seeds(seed, weight_decay=self.weight_decay)
        images = keras.Input((input.height, input.width, input.channels), name="images")
        x = layers.Rescaling(1 / 127.5, -1, name="scale")(images)
        for number, (size, step, filters) in enumerate(self._convolutions()):
            x = layers.Conv2D(filters, size, step, use_bias=False, name=f"embed{number}", **seeds.kernel())(x)
            x = layers.BatchNormalization(momentum=MOMENTUM, name=f"embed{number}_norm")(x)
            if self.embedding == "conv":
                x = layers.ReLU(name=f"embed{number}_relu")(x)
        steps = x.shape[1] * x.shape[2]
        if steps < max(_SCALES):
            raise RecipeError(
                f"a picture of {input.height}×{input.width} gives {steps} patches of {self.patch} every {self.stride} pixels, at least {max(_SCALES)} are "
                "needed; make them smaller, or their stride"
            )
        x = layers.Reshape((steps, self.width), name="sequence")(x)
        recurrent = layers.LSTM(
            self.units,
            return_sequences=True,
            recurrent_initializer=seeds.orthogonal(),
            name="lstm",
            **seeds.kernel(),
        )
        states = layers.Bidirectional(recurrent, name="bilstm")(x)
        parts = []
        for scale in _SCALES:
            pooled = layers.AveragePooling1D(scale, name=f"pool{scale}")(states) if scale > 1 else states
            bent = layers.Dense(self.units, activation="tanh", name=f"bend{scale}", **seeds.kernel())(pooled)
            scores = layers.Dense(1, use_bias=False, name=f"score{scale}", **seeds.kernel())(bent)
            weights = layers.Softmax(axis=1, name=f"attention{scale}")(scores)
            weighed = layers.Dot(axes=(1, 1), name=f"weighed{scale}")([weights, pooled])
            parts.append(layers.Flatten(name=f"summary{scale}")(weighed))
        x = layers.Concatenate(name="scales")(parts)
        x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop_summary")(x)
        probabilities = layers.Dense(classes, activation="softmax", name="classify", **seeds.kernel())(x)
        return keras.Model(images, probabilities, name="patch_bilstm")

    def _convolutions(self) -> tuple[tuple[int, int, int], ...]:
        """Size, stride and filters of the convolutions, none padded, that embed each patch by itself: together they see `patch` pixels every `stride`.

        `linear` is one of them: cutting patches out and a Dense over their pixels in one. `conv` is a small CNN of each patch, which overlapping
        patches share: kernels of 2, 3, 2, 3 at strides of 2, 1, 2, 2 see 16 pixels every 8.
        """
        if self.embedding == "linear":
            return ((self.patch, self.stride, self.width),)
        if (self.patch, self.stride) != (16, 8):
            raise RecipeError(
                f"embedding = 'conv' is made for patches of 16 every 8 pixels, not of {self.patch} every {self.stride}; give these, or embedding = 'linear'"
            )
        return ((2, 2, 8), (3, 1, 16), (2, 2, 32), (3, 2, self.width))
