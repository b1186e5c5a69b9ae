"""A small CNN from scratch, for small pictures that show one thing each, as digits."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers
from pydantic import Field, PositiveInt
from typing_extensions import override

from models.errors import RecipeError
from models.zoo.architecture import ENCODE, Architecture
from models.zoo.seeds import Seeds
from models.zoo.stem import MOMENTUM
from service.bundle.manifest import Input


class SmallCnn(Architecture):
    """The parameters of `small_cnn`: the channels of the convolutions at each size of the picture, which is halved in between."""

    name: Literal["small_cnn"]
    widths: tuple[tuple[PositiveInt, ...], ...] = Field(default=((16,), (32,), (64, 64)), min_length=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Images `[B, H, W, C]` of 0…255 → probabilities `[B, classes]`.

        Conv 3×3 → BatchNorm → ReLU for each of `widths`, maxima of 2×2 between its parts → mean over the picture → Dropout → Dense
        softmax. Raises RecipeError where the picture is too small to be halved so often.
        """
        halvings = len(self.widths) - 1
        if min(input.height, input.width) < 2**halvings:
            raise RecipeError(
                f"a picture of {input.height}×{input.width} cannot be halved {halvings} times; give fewer widths, or larger pictures"
            )
        seeds = Seeds(seed)
        shape = (input.height, input.width, input.channels)
        picture = x = keras.Input(shape, name="frames")
        x = layers.Rescaling(1 / 255, name="normalise")(x)
        for number, block in enumerate(self.widths):
            if number:
                x = layers.MaxPooling2D(2, name=f"halve{number}")(x)
            for place, channels in enumerate(block):
                x = _convolution(x, channels, name=f"conv{number}_{place}", seeds=seeds)
        encoder = keras.Model(picture, layers.GlobalAveragePooling2D(name="pool")(x), name=ENCODE)
        images = keras.Input(shape, name="images")
        x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop")(encoder(images))
        x = layers.Dense(classes, activation="softmax", name="classify", **seeds.kernel())(x)
        return keras.Model(images, x, name="small_cnn")


def _convolution(x: Any, channels: int, *, name: str, seeds: Seeds) -> Any:
    kernel = seeds.kernel(before_relu=True)
    x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=name, **kernel)(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x))
