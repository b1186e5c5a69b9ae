"""A picture read patch by patch: each is embedded, a bidirectional LSTM goes over them, and attention looks at three scales."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers
from pydantic import Field

from models.errors import RecipeError
from service.bundle.manifest import Frozen, Input

_MOMENTUM = 0.9  # small data sets make few steps: at the default of 0.99 the statistics would lag behind
_SCALES = (1, 2, 4)  # steps that are averaged to one before attention weighs them
Embedding = Literal["linear", "conv"]


class PatchBiLstm(Frozen):
    """The parameters of `patch_bilstm`; sizes are in pixels."""

    name: Literal["patch_bilstm"]
    patch: int = Field(default=16, ge=2)
    stride: int = Field(default=8, ge=1)
    embedding: Embedding = "linear"
    width: int = Field(default=64, ge=1)
    units: int = Field(default=48, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @property
    def pretrained(self) -> bool:
        return False

    @property
    def trainable(self) -> bool:
        return True

    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:  # noqa: A002, ARG002 -- as every architecture's
        shape = (input.height, input.width, input.channels)
        return patch_bilstm(classes=classes, shape=shape, seed=seed, **self.model_dump(exclude={"name"}))


def patch_bilstm(
    *,
    classes: int,
    shape: tuple[int, int, int] = (128, 128, 3),
    patch: int = 16,
    stride: int = 8,
    embedding: Embedding = "linear",
    width: int = 64,
    units: int = 48,
    dropout: float = 0.3,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """Images `[B, H, W, C]` of 0…255 → probabilities `[B, classes]`.

    Overlapping patches, `patch` pixels a side every `stride`, each embedded in `width` numbers → their sequence, row by row (225 of a
    picture of 128 × 128) → Bidirectional LSTM(`units` each way) → additive attention over its states as they are, and over averages of
    2 and of 4 of them → Dropout → Dense softmax. `weight_decay` is an L2 penalty on every kernel, `seed` fixes the first weights and the
    dropout. Raises RecipeError.
    """
    if min(shape[:2]) < patch:
        raise RecipeError(f"patches of {patch} pixels do not fit a picture of {shape[0]}×{shape[1]}; make them smaller")
    seeds = iter(range(seed * 100, seed * 100 + 100))
    penalty = keras.regularizers.L2(weight_decay) if weight_decay else None

    def kernel() -> dict[str, Any]:
        return {"kernel_initializer": keras.initializers.GlorotUniform(next(seeds)), "kernel_regularizer": penalty}

    images = keras.Input(shape, name="images")
    x = layers.Rescaling(1 / 127.5, -1, name="scale")(images)
    for number, (size, step, filters) in enumerate(_convolutions(embedding, patch=patch, stride=stride, width=width)):
        x = layers.Conv2D(filters, size, step, use_bias=False, name=f"embed{number}", **kernel())(x)
        x = layers.BatchNormalization(momentum=_MOMENTUM, name=f"embed{number}_norm")(x)
        if embedding == "conv":
            x = layers.ReLU(name=f"embed{number}_relu")(x)
    steps = x.shape[1] * x.shape[2]
    if steps < max(_SCALES):
        raise RecipeError(
            f"a picture of {shape[0]}×{shape[1]} gives {steps} patches of {patch} every {stride} pixels, at least {max(_SCALES)} are "
            "needed; make them smaller, or their stride"
        )
    x = layers.Reshape((steps, width), name="sequence")(x)
    recurrent = layers.LSTM(
        units,
        return_sequences=True,
        recurrent_initializer=keras.initializers.Orthogonal(seed=next(seeds)),
        name="lstm",
        **kernel(),
    )
    states = layers.Bidirectional(recurrent, name="bilstm")(x)
    parts = []
    for scale in _SCALES:
        pooled = layers.AveragePooling1D(scale, name=f"pool{scale}")(states) if scale > 1 else states
        bent = layers.Dense(units, activation="tanh", name=f"bend{scale}", **kernel())(pooled)
        scores = layers.Dense(1, use_bias=False, name=f"score{scale}", **kernel())(bent)
        weights = layers.Softmax(axis=1, name=f"attention{scale}")(scores)
        weighed = layers.Dot(axes=(1, 1), name=f"weighed{scale}")([weights, pooled])
        parts.append(layers.Flatten(name=f"summary{scale}")(weighed))
    x = layers.Concatenate(name="scales")(parts)
    x = layers.Dropout(dropout, seed=next(seeds), name="drop_summary")(x)
    probabilities = layers.Dense(classes, activation="softmax", name="classify", **kernel())(x)
    return keras.Model(images, probabilities, name="patch_bilstm")


def _convolutions(embedding: Embedding, *, patch: int, stride: int, width: int) -> tuple[tuple[int, int, int], ...]:
    """Size, stride and filters of the convolutions, none padded, that embed each patch by itself: together they see `patch` pixels every `stride`.

    `linear` is one of them: cutting patches out and a Dense over their pixels in one. `conv` is a small CNN of each patch, which overlapping
    patches share: kernels of 2, 3, 2, 3 at strides of 2, 1, 2, 2 see 16 pixels every 8.
    """
    if embedding == "linear":
        return ((patch, stride, width),)
    if (patch, stride) != (16, 8):
        raise RecipeError(
            f"embedding = 'conv' is made for patches of 16 every 8 pixels, not of {patch} every {stride}; give these, or embedding = 'linear'"
        )
    return ((2, 2, 8), (3, 1, 16), (2, 2, 32), (3, 2, width))
