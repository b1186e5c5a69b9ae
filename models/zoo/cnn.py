"""The CNN with a classifier of its own: every frame is classified by itself, a clip by the mean of its frames."""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers
from pydantic import Field

from models.errors import RecipeError
from models.zoo.backbones import OURS, PretrainedOn
from models.zoo.efficientnet_lite import TOP
from models.zoo.seeds import Seeds
from models.zoo.stem import encoded, standardised
from service.bundle.manifest import Frozen, Input


class Cnn(Frozen):
    """The parameters of `cnn`."""

    name: Literal["cnn"]
    backbone: str = OURS
    until: str = TOP
    weights: PretrainedOn = "imagenet"
    grid: tuple[int, int] = (1, 1)
    hidden: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @property
    def pretrained(self) -> bool:
        return self.weights is not None

    @property
    def trainable(self) -> bool:
        return (
            self.pretrained
        )  # of random weights size and speed may be asked alone; the report then says that nothing was trained

    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:  # noqa: A002, ARG002 -- as every architecture's
        parameters = self.model_dump(exclude={"name"})
        return cnn(classes=classes, height=input.height, width=input.width, seed=seed, **parameters)


def cnn(
    *,
    classes: int,
    height: int = 224,
    width: int = 224,
    backbone: str = OURS,
    until: str = TOP,
    weights: str | None = "imagenet",
    grid: tuple[int, int] = (1, 1),
    hidden: int | None = None,
    dropout: float = 0.2,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """Clips `[B, T, height, width, 3]` of 0…255 RGB → probabilities `[B, classes]`; an image is a clip of one frame.

    TimeDistributed(`backbone` up to `until`, averaged over `grid`) → BatchNorm → optionally Dense(`hidden`, ReLU)
    → Dense softmax of each frame → mean over frames. `seed` fixes the classifier's initial weights and dropout.
    """
    if classes < 2:
        raise RecipeError(f"a classifier needs 2 classes or more, got {classes}; name them in the data set")
    seeds = Seeds(seed, weight_decay=weight_decay)
    clips, x = encoded(backbone=backbone, height=height, width=width, until=until, weights=weights, grid=grid)
    x = standardised(x)
    if hidden is not None:
        x = layers.Dropout(dropout, seed=seeds.next(), name="drop_features")(x)
        x = layers.Dense(hidden, activation="relu", name="hidden", **seeds.kernel())(x)
    x = layers.Dropout(dropout, seed=seeds.next(), name="drop_summary")(x)
    of_frames = layers.Dense(classes, activation="softmax", name="classify", **seeds.kernel())(x)
    return keras.Model(clips, layers.GlobalAveragePooling1D(name="average")(of_frames), name="cnn")
