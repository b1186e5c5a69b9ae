"""The CNN-LSTM: what each frame shows, then how it changes."""

from __future__ import annotations

from typing import Literal

import keras
from pydantic import Field

from models.errors import RecipeError
from models.zoo.backbones import OURS, PretrainedOn
from models.zoo.efficientnet_lite import TOP
from models.zoo.layers import CellMotion, TemporalDifference
from models.zoo.recurrent import Cell, Readout, answers, read_out, recurrent
from models.zoo.seeds import Seeds
from models.zoo.stem import encoded, standardised
from service.bundle.manifest import Frozen, Input

Change = Literal["none", "differences", "motion"]


class CnnLstm(Frozen):
    """The parameters of `cnn_lstm`. The plain network of the textbooks has `bidirectional = false` and the rest as it is."""

    name: Literal["cnn_lstm"]
    backbone: str = OURS
    until: str = TOP
    weights: PretrainedOn = "imagenet"
    grid: tuple[int, int] = (1, 1)
    projection: int | None = Field(default=None, ge=1)
    change: Change = "none"
    cell: Cell = "lstm"
    units: int = Field(default=64, ge=1)
    layers: int = Field(default=1, ge=1, le=8)
    bidirectional: bool = True
    readout: Readout = "last"
    dropout: float = Field(default=0.5, ge=0, lt=1)
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
        return cnn_lstm(classes=classes, height=input.height, width=input.width, seed=seed, **parameters)


def cnn_lstm(
    *,
    classes: int,
    height: int = 224,
    width: int = 224,
    backbone: str = OURS,
    until: str = TOP,
    weights: str | None = "imagenet",
    grid: tuple[int, int] = (1, 1),
    projection: int | None = None,
    change: Change = "none",
    cell: Cell = "lstm",
    units: int = 64,
    layers: int = 1,
    bidirectional: bool = True,
    readout: Readout = "last",
    dropout: float = 0.5,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """Clips `[B, T, height, width, 3]` of 0…255 RGB → probabilities `[B, classes]`; any T from 1 on.

    TimeDistributed(`backbone` up to `until`, averaged over `grid`) → BatchNorm → optionally Dense(`projection`)
    → `layers` of LSTM or GRU(`units`, each way where bidirectional) → `readout` over time → Dense softmax. `change` says how the
    frames before come in: `differences` beside the features, `motion` (see CellMotion) in their place, or `none`, by the
    recurrence alone. With `readout="attention"` the weights of the frames, `attention` `[B, T]`, are an output too.
    `weight_decay` is an L2 penalty on the head's kernels, `seed` fixes its initial weights and dropout.
    """
    if classes < 2:
        raise RecipeError(f"a classifier needs 2 classes or more, got {classes}; name them in the data set")
    seeds = Seeds(seed, weight_decay=weight_decay)
    clips, x = encoded(backbone=backbone, height=height, width=width, until=until, weights=weights, grid=grid)
    if change == "motion":
        x = CellMotion(grid[0] * grid[1], name="motion")(x)
    x = standardised(x)
    if projection is not None:
        x = keras.layers.Dropout(dropout, seed=seeds.next(), name="drop_features")(x)
        x = keras.layers.Dense(projection, name="project", **seeds.kernel())(x)
    if change == "differences":
        x = TemporalDifference(name="differences")(x)
    states = recurrent(
        x,
        cell=cell,
        units=units,
        depth=layers,
        bidirectional=bidirectional,
        dropout=dropout,
        sequences=readout != "last",
        seeds=seeds,
    )
    summary, weights_of_frames = read_out(states, readout, seeds=seeds)
    found = answers(summary, weights_of_frames, classes=classes, dropout=dropout, seeds=seeds)
    return keras.Model(clips, found, name="cnn_lstm")
