"""The 3D CNN: space and time in the same convolutions, and no memory besides."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers
from pydantic import Field, PositiveInt
from typing_extensions import override

from models.errors import RecipeError
from models.zoo.architecture import Architecture
from models.zoo.layers import TemporalDifference
from models.zoo.seeds import Seeds
from models.zoo.stem import MOMENTUM
from service.bundle.manifest import Input


class Cnn3d(Architecture):
    """The parameters of `cnn3d`: the channels of each block, what the first one sees, and what keeps it from learning by heart."""

    name: Literal["cnn3d"]
    filters: tuple[PositiveInt, ...] = Field(default=(16, 32, 64, 96), min_length=1)
    change: Literal["none", "differences"] = "none"
    dropout: float = Field(default=0.5, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Clips `[B, frames, H, W, C]` of 0…255 → probabilities `[B, classes]`; no other number of frames.

        For each of `filters` a block of Conv3D 3×3×3 → BatchNorm → ReLU → MaxPooling3D, as in C3D (Tran et al. 2015, arXiv
        1412.0767), narrower, and with the average over what is left in place of its dense layers. That would fit any length, but
        of clips of one or two frames OpenVINO 2026.4 computes an INT8 network wrongly (0.15 off in probability where onnxruntime
        is 0.002 off): T is fixed, and shorter clips repeat their frames.
        The first convolution halves height and width, the first pooling spares time; `differences` puts the change since the
        frame before beside the colours. Raises RecipeError where the blocks are more than the frame can be halved.
        """
        halvings = len(self.filters) + 1
        if min(input.height, input.width) < 2**halvings:
            raise RecipeError(
                f"{len(self.filters)} blocks of cnn3d halve the frame {halvings} times, and {input.height}×{input.width} pixels "
                f"do not last; give {2**halvings} or more, or fewer filters"
            )
        seeds = Seeds(seed, weight_decay=self.weight_decay)
        clips = keras.Input((frames, input.height, input.width, input.channels), name="clips")
        x: Any = layers.Rescaling(1 / 127.5, offset=-1, name="normalise")(clips)
        if self.change == "differences":
            x = TemporalDifference(name="differences")(x)
        for number, filters in enumerate(self.filters):
            x = layers.Conv3D(
                filters,
                3,
                strides=1 if number else (1, 2, 2),
                padding="same",
                use_bias=False,
                name=f"block{number}_conv",
                **seeds.kernel(before_relu=True),
            )(x)
            x = layers.BatchNormalization(momentum=MOMENTUM, name=f"block{number}_norm")(x)
            x = layers.ReLU(name=f"block{number}_relu")(x)
            # "same": few frames keep one, whatever the number of blocks.
            x = layers.MaxPooling3D(2 if number else (1, 2, 2), padding="same", name=f"block{number}_pool")(x)
        x = layers.GlobalAveragePooling3D(name="average")(x)
        x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop_summary")(x)
        classify = layers.Dense(classes, activation="softmax", kernel_initializer=seeds.glorot(), name="classify")
        return keras.Model(clips, classify(x), name="cnn3d")
