"""The CNN-LSTM: what each frame shows, then how it changes."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers
from pydantic import Field

from models.errors import RecipeError
from models.zoo.architecture import ENCODE
from models.zoo.efficientnet_lite import TOP, efficientnet_lite0
from models.zoo.layers import CellMotion, TemporalDifference
from models.zoo.pooling import pooled
from service.bundle.manifest import Frozen, Input

# Small data sets make few steps: at the default of 0.99 the statistics used in serving would lag behind those of training.
_MOMENTUM = 0.9
Change = Literal["none", "differences", "motion"]
Readout = Literal["last", "mean", "max", "mean_max", "attention"]


class CnnLstm(Frozen):
    """The parameters of `cnn_lstm`."""

    name: Literal["cnn_lstm"]
    until: str = TOP
    weights: Literal["imagenet"] | None = "imagenet"
    grid: tuple[int, int] = (1, 1)
    projection: int | None = Field(default=None, ge=1)
    change: Change = "none"
    units: int = Field(default=64, ge=1)
    readout: Readout = "last"
    dropout: float = Field(default=0.5, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @property
    def pretrained(self) -> bool:
        return self.weights is not None

    @property
    def trainable(self) -> bool:
        return True

    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:  # noqa: A002, ARG002 -- as every architecture's
        parameters = self.model_dump(exclude={"name"})
        return cnn_lstm(classes=classes, height=input.height, width=input.width, seed=seed, **parameters)


def cnn_lstm(
    *,
    classes: int,
    height: int = 224,
    width: int = 224,
    until: str = TOP,
    weights: str | None = "imagenet",
    grid: tuple[int, int] = (1, 1),
    projection: int | None = None,
    change: Change = "none",
    units: int = 64,
    readout: Readout = "last",
    dropout: float = 0.5,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """Clips `[B, T, height, width, 3]` of 0…255 RGB → probabilities `[B, classes]`; any T from 1 on.

    TimeDistributed(EfficientNet-Lite0 up to `until`, averaged over `grid`) → BatchNorm → optionally Dense(`projection`)
    → Bidirectional LSTM(`units` each way) → `readout` over time → Dense softmax. `change` says how the frames before come
    in: `differences` beside the features, `motion` (see CellMotion) in their place, or `none`, by the LSTM alone.
    `weight_decay` is an L2 penalty on the head's kernels, `seed` fixes its initial weights and dropout.
    """
    if classes < 2:
        raise RecipeError(f"a classifier needs 2 classes or more, got {classes}; name them in the data set")
    seeds = iter(range(seed * 100, seed * 100 + 100))
    penalty = keras.regularizers.L2(weight_decay) if weight_decay else None

    def kernel() -> dict[str, Any]:
        return {"kernel_initializer": keras.initializers.GlorotUniform(next(seeds)), "kernel_regularizer": penalty}

    clips = keras.Input((None, height, width, 3), name="clips")
    encoder = pooled(efficientnet_lite0(height=height, width=width, until=until, weights=weights), grid=grid)
    x = layers.TimeDistributed(encoder, name=ENCODE)(clips)
    if change == "motion":
        x = CellMotion(grid[0] * grid[1], name="motion")(x)
    x = layers.BatchNormalization(momentum=_MOMENTUM, name="standardise")(x)
    if projection is not None:
        x = layers.Dropout(dropout, seed=next(seeds), name="drop_features")(x)
        x = layers.Dense(projection, name="project", **kernel())(x)
    if change == "differences":
        x = TemporalDifference(name="differences")(x)
    orthogonal = keras.initializers.Orthogonal(seed=next(seeds))
    recurrent = layers.LSTM(
        units, return_sequences=readout != "last", recurrent_initializer=orthogonal, name="lstm", **kernel()
    )
    x = layers.Bidirectional(recurrent, name="bilstm")(x)
    x = _read_out(x, readout)
    x = layers.Dropout(dropout, seed=next(seeds), name="drop_summary")(x)
    probabilities = layers.Dense(classes, activation="softmax", name="classify", **kernel())(x)
    return keras.Model(clips, probabilities, name="cnn_lstm")


def _read_out(states: Any, readout: Readout) -> Any:
    """`[B, T, 2·units]` → `[B, 2·units]`, or twice that for `mean_max`; `last` came without the time axis."""
    if readout == "last":
        return states
    if readout == "attention":
        states = layers.Attention(name="attention")([states, states])
    mean, largest = layers.GlobalAveragePooling1D(name="mean"), layers.GlobalMaxPooling1D(name="max")
    if readout == "max":
        return largest(states)
    if readout == "mean_max":
        return layers.Concatenate(name="mean_max")([mean(states), largest(states)])
    return mean(states)
