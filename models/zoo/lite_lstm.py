"""The light CNN-LSTM for the edge: depthwise-separable convolutions learned from scratch, then an LSTM."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers
from pydantic import Field, PositiveInt
from typing_extensions import override

from models.zoo.architecture import ENCODE, Architecture
from models.zoo.pooling import pooled
from models.zoo.seeds import Seeds
from models.zoo.stem import MOMENTUM
from service.bundle.manifest import Input


class LiteLstm(Architecture):
    """The parameters of `lite_lstm`.

    `filters`: channels of the blocks, of which the odd ones (the second, the fourth …) halve the frame; `grid`: the cells that
    the last maps are averaged over. `scale = "frame"` gives each frame mean 0 and deviation 1: light and camera cancel out,
    but for frames that hardly vary (by 4 grey levels of 255 or so: the root of Keras's epsilon, 0.001, on −1…1), whose noise is not blown up.
    """

    name: Literal["lite_lstm"]
    stem: PositiveInt = 16
    filters: tuple[PositiveInt, ...] = Field(default=(24, 48, 48, 96, 96), min_length=1)
    grid: tuple[PositiveInt, PositiveInt] = (1, 1)
    scale: Literal["range", "frame"] = "range"
    units: int = Field(default=96, ge=1)
    bidirectional: bool = False
    dropout: float = Field(default=0.5, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Clips `[B, T, H, W, C]` of 0…255, any T from 1 on → probabilities `[B, classes]`.

        TimeDistributed(Conv2D with stride 2, then separable blocks as in MobileNet, Howard et al. 2017, arXiv 1704.04861, with
        ReLU6, which bounds the ranges of INT8) → Dropout → LSTM(`units`) → Dropout → Dense softmax. Raises RecipeError where
        `grid` does not divide the last maps.
        """
        seeds = Seeds(seed, weight_decay=self.weight_decay)
        clips = keras.Input((None, input.height, input.width, input.channels), name="clips")
        maps = self._maps(input, seeds)
        x: Any = layers.TimeDistributed(pooled(maps, grid=self.grid), name=ENCODE)(clips)
        x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop_features")(x)
        recurrent = layers.LSTM(
            self.units,
            name="lstm",
            **seeds.kernel(),
            recurrent_initializer=seeds.orthogonal(),
        )
        x = layers.Bidirectional(recurrent, name="bilstm")(x) if self.bidirectional else recurrent(x)
        x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop_summary")(x)
        classify = layers.Dense(classes, activation="softmax", kernel_initializer=seeds.glorot(), name="classify")
        return keras.Model(clips, classify(x), name="lite_lstm")

    def _maps(self, input: Input, seeds: Seeds) -> keras.Model:  # noqa: A002 -- the manifest's own word
        """Frames `[N, H, W, C]` of 0…255 → maps `[N, h, w, filters]`."""
        frames = keras.Input((input.height, input.width, input.channels), name="frames")
        x: Any = layers.Rescaling(1 / 127.5, offset=-1, name="normalise")(frames)
        if self.scale == "frame":
            x = layers.LayerNormalization(axis=(1, 2, 3), center=False, scale=False, name="of_frame")(x)
        x = _convolution(x, self.stem, "stem", seeds=seeds, kernel_size=3, strides=2, padding="same")
        for number, filters in enumerate(self.filters):
            name = f"block{number}"
            x = layers.DepthwiseConv2D(
                3,
                strides=1 + number % 2,
                padding="same",
                use_bias=False,
                depthwise_initializer=seeds.he(),
                name=f"{name}_depthwise_conv",
            )(x)
            x = _activate(x, f"{name}_depthwise")
            x = _convolution(x, filters, f"{name}_project", seeds=seeds, kernel_size=1)
        return keras.Model(frames, x, name="maps")


def _convolution(x: Any, filters: int, name: str, *, seeds: Seeds, **options: Any) -> Any:
    kernel = seeds.kernel(before_relu=True)
    return _activate(layers.Conv2D(filters, use_bias=False, name=f"{name}_conv", **kernel, **options)(x), name)


def _activate(x: Any, name: str) -> Any:
    x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x)
