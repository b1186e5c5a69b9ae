"""A small CNN from scratch, for small pictures that show one thing each, as digits."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers
from pydantic import Field, PositiveInt

from models.errors import RecipeError
from models.zoo.architecture import ENCODE
from service.bundle.manifest import Frozen, Input

WIDTHS = ((16,), (32,), (64, 64))


class SmallCnn(Frozen):
    """The parameters of `small_cnn`: the channels of the convolutions at each size of the picture, which is halved in between."""

    name: Literal["small_cnn"]
    widths: tuple[tuple[PositiveInt, ...], ...] = Field(default=WIDTHS, min_length=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)

    @property
    def pretrained(self) -> bool:
        return False

    @property
    def trainable(self) -> bool:
        return True

    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:  # noqa: A002, ARG002 -- as every architecture's
        shape = (input.height, input.width, input.channels)
        return small_cnn(classes=classes, shape=shape, widths=self.widths, dropout=self.dropout, seed=seed)


def small_cnn(
    *,
    classes: int,
    shape: tuple[int, int, int] = (28, 28, 1),
    widths: tuple[tuple[int, ...], ...] = WIDTHS,
    dropout: float = 0.3,
    seed: int = 0,
) -> keras.Model:
    """Images `[B, H, W, C]` of 0…255 → probabilities `[B, classes]`.

    Conv 3×3 → BatchNorm → ReLU for each of `widths`, maxima of 2×2 between its parts → mean over the picture → Dropout → Dense
    softmax. `seed` fixes the first weights and the dropout. Raises RecipeError where the picture is too small to be halved so often.
    """
    if min(shape[:2]) < 2 ** (len(widths) - 1):
        raise RecipeError(
            f"a picture of {shape[0]}×{shape[1]} cannot be halved {len(widths) - 1} times; give fewer widths, or larger pictures"
        )
    seeds = iter(range(seed * 100, seed * 100 + 100))
    frames = x = keras.Input(shape, name="frames")
    x = layers.Rescaling(1 / 255, name="normalise")(x)
    for number, block in enumerate(widths):
        if number:
            x = layers.MaxPooling2D(2, name=f"halve{number}")(x)
        for place, width in enumerate(block):
            x = _convolution(x, width, name=f"conv{number}_{place}", seed=next(seeds))
    encoder = keras.Model(frames, layers.GlobalAveragePooling2D(name="pool")(x), name=ENCODE)
    images = keras.Input(shape, name="images")
    x = layers.Dropout(dropout, seed=next(seeds), name="drop")(encoder(images))
    first = keras.initializers.GlorotUniform(next(seeds))
    x = layers.Dense(classes, activation="softmax", kernel_initializer=first, name="classify")(x)
    return keras.Model(images, x, name="small_cnn")


def _convolution(x: Any, width: int, *, name: str, seed: int) -> Any:
    first = keras.initializers.HeNormal(seed)
    x = layers.Conv2D(width, 3, padding="same", use_bias=False, kernel_initializer=first, name=name)(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x))
