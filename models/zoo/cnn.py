"""The CNN with a classifier of its own: every frame is classified by itself, a clip by the mean of its frames."""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers
from pydantic import Field
from typing_extensions import override

from models.zoo.backbones import OnBackbone
from models.zoo.seeds import Seeds
from models.zoo.stem import encoded, standardised
from service.bundle.manifest import Input


class Cnn(OnBackbone):
    """The parameters of `cnn`."""

    name: Literal["cnn"]
    grid: tuple[int, int] = (1, 1)
    hidden: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @property
    @override
    def trainable(self) -> bool:
        # Of random weights size and speed may be asked alone; the report then says that nothing was trained.
        return self.pretrained

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Clips `[B, T, H, W, 3]` of 0…255 RGB → probabilities `[B, classes]`; an image is a clip of one frame.

        TimeDistributed(`backbone` up to `until`, averaged over `grid`) → BatchNorm → optionally Dense(`hidden`, ReLU)
        → Dense softmax of each frame → mean over frames. Raises RecipeError and WeightsError.
        """
        seeds = Seeds(seed, weight_decay=self.weight_decay)
        clips, x = encoded(self.network(input), grid=self.grid)
        x = standardised(x)
        if self.hidden is not None:
            x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop_features")(x)
            x = layers.Dense(self.hidden, activation="relu", name="hidden", **seeds.kernel())(x)
        x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop_summary")(x)
        of_frames = layers.Dense(classes, activation="softmax", name="classify", **seeds.kernel())(x)
        return keras.Model(clips, layers.GlobalAveragePooling1D(name="average")(of_frames), name="cnn")
