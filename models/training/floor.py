"""The plain floor that a trained network should be above: logistic regression on what a frozen EfficientNet-Lite0 says of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from models.data.dataset import Dataset, Sample
from models.training.features import Activations
from models.training.part import FEATURES
from models.zoo.efficientnet_lite import efficientnet_lite0
from models.zoo.pooling import pooled
from service.bundle.manifest import Input, Sampling

_INPUT = Input(height=224, width=224)


def classifier() -> Pipeline:
    """Not fitted yet."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def statistics(dataset: Dataset, samples: Sequence[Sample], *, frames: int, cache: Path) -> NDArray[np.float32]:
    """`[n, 3·1280]`: mean, standard deviation and mean |difference| of the features of `frames` frames of each; raises DataError."""
    activations = Activations(
        pooled(efficientnet_lite0()), dataset=dataset, spec=_INPUT, sampling=Sampling(frames=frames), cache=cache
    )
    activations.prepare(samples)
    return np.stack([_of_clip(row[0].astype(np.float32)) for row in activations.read(samples, cut=FEATURES).views])


def _of_clip(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """`[T, D]` → `[3·D]`; a clip of one frame has neither deviation nor difference."""
    change = np.abs(np.diff(features, axis=0)).mean(0) if len(features) > 1 else np.zeros_like(features[0])
    return np.concatenate([features.mean(0), features.std(0), change])
