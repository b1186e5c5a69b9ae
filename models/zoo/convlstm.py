"""The ConvLSTM: a memory that is a picture, so that what moved where is not averaged away before time is looked at."""

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


class ConvLstm(Architecture):
    """The parameters of `convlstm`: the channels of the convolution of each frame and of each recurrent layer, and what is read."""

    name: Literal["convlstm"]
    stem: PositiveInt = 12
    filters: tuple[PositiveInt, ...] = Field(default=(16, 24), min_length=1)
    change: Literal["none", "differences"] = "none"
    dropout: float = Field(default=0.5, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Clips `[B, frames, H, W, C]` of 0…255 → probabilities `[B, classes]`; no other number of frames.

        A convolution of each frame halves it, then for each of `filters` ConvLSTM2D 3×3 (Shi et al. 2015, arXiv 1506.04214)
        and a pooling over space; of the last layer only the last state counts, averaged and largest over space. T is fixed,
        since engines know no such layer and it is written out step by step. `differences` puts the change since the frame before
        beside the colours. Raises RecipeError where the layers are more than the frame can be halved.
        """
        halvings = len(self.filters) + 1
        if min(input.height, input.width) < 2**halvings:
            raise RecipeError(
                f"{len(self.filters)} layers of convlstm halve the frame {halvings} times, and {input.height}×{input.width} pixels "
                f"do not last; give {2**halvings} or more, or fewer filters"
            )
        seeds = Seeds(seed, weight_decay=self.weight_decay)
        clips = keras.Input((frames, input.height, input.width, input.channels), name="clips")
        x: Any = layers.Rescaling(1 / 127.5, offset=-1, name="normalise")(clips)
        if self.change == "differences":
            x = TemporalDifference(name="differences")(x)
        stem = layers.Conv2D(
            self.stem, 3, strides=2, padding="same", use_bias=False, name="stem_conv", **seeds.kernel()
        )
        x = layers.TimeDistributed(stem, name="stem")(x)
        x = layers.BatchNormalization(momentum=MOMENTUM, name="stem_norm")(x)
        x = layers.ReLU(name="stem_relu")(x)
        for number, filters in enumerate(self.filters):
            last = number == len(self.filters) - 1
            x = layers.MaxPooling3D((1, 2, 2), name=f"pool{number}")(x)
            x = layers.ConvLSTM2D(
                filters,
                3,
                padding="same",
                return_sequences=not last,
                recurrent_initializer=seeds.orthogonal(),
                name=f"convlstm{number}",
                **seeds.kernel(),
            )(x)
            x = layers.BatchNormalization(momentum=MOMENTUM, name=f"norm{number}")(x)
        mean, largest = layers.GlobalAveragePooling2D(name="mean"), layers.GlobalMaxPooling2D(name="max")
        x = layers.Concatenate(name="mean_max")([mean(x), largest(x)])
        x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop_summary")(x)
        classify = layers.Dense(classes, activation="softmax", name="classify", **seeds.kernel())
        return keras.Model(clips, classify(x), name="convlstm")
