"""What every network of clips begins with: a CNN over each frame, then features on one scale."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from models.zoo.architecture import ENCODE
from models.zoo.pooling import pooled

# Small data sets make few steps: at the default of 0.99 the statistics used in serving would lag behind those of training.
MOMENTUM = 0.9


def encoded(network: keras.Model, *, grid: tuple[int, int]) -> tuple[Any, Any]:
    """Clips `[B, T, H, W, C]` and, of each frame, the features `[B, T, rows·columns·D]`: the maps of `network`, averaged over `grid`."""
    clips = keras.Input((None, *network.input.shape[1:]), name="clips")
    return clips, layers.TimeDistributed(pooled(network, grid=grid), name=ENCODE)(clips)


def standardised(features: Any) -> Any:
    return layers.BatchNormalization(momentum=MOMENTUM, name="standardise")(features)
