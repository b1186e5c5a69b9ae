"""Random weights that answer otherwise to each clip, as trained ones do: answers that were all alike would prove nothing."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

_SPREAD = 2.0  # of the scores, in standard deviations


def make_decisive(model: keras.Model, fed: np.ndarray) -> None:
    """In place: BatchNorm statistics of the real activations of `fed`, and a last layer whose scores spread over them."""
    random = np.random.default_rng(5)
    parts = list(model._flatten_layers())
    for layer in parts:
        if isinstance(layer, layers.DepthwiseConv2D):  # random ones cancel what they sum, and leave rounding errors
            layer.kernel.assign(abs(layer.kernel))
    # Of the residual branches of MobileNetV2, which add up otherwise.
    branches = {layer.name.replace("_add", "_project_BN") for layer in parts if layer.name.endswith("_add")}
    norms = [layer for layer in parts if isinstance(layer, layers.BatchNormalization)]
    for norm in norms:
        norm.trainable, norm.momentum = True, 0.0  # one pass sets the statistics, also where a CNN was frozen
        share = 0.1 if norm.name in branches else 1.0
        norm.gamma.assign(share * random.uniform(0.7, 1.3, norm.gamma.shape))
        norm.beta.assign(random.normal(0, 0.2, norm.beta.shape))
    if norms:
        model(fed, training=True)
    for norm in norms:  # a channel that hardly moves would be blown up, and its rounding errors with it
        norm.moving_variance.assign(norm.moving_variance + 0.1 * ops.mean(norm.moving_variance))
    last = _scoring(model, parts)
    for _ in range(3):  # float32 tells scores apart only once they are apart
        scores = _scores(_answer(model, fed))
        deviation = max(float(scores.std(axis=0).max()), 1e-6)
        last.bias.assign((last.bias - scores.mean(axis=0)) * (_SPREAD / deviation))
        last.kernel.assign(last.kernel * (_SPREAD / deviation))


def _scoring(model: keras.Model, parts: list[Any]) -> Any:
    """The layer that makes the scores: the last with as many units as there are answers."""
    classes = _answer(model, None)
    fitting = [
        layer
        for layer in parts
        if isinstance(layer, (layers.Dense, layers.Conv2D)) and layer.use_bias and layer.bias.shape[-1] == classes
    ]
    named = [layer for layer in fitting if layer.name == "answer"]
    return (named or fitting)[-1]


def _answer(model: keras.Model, fed: np.ndarray | None) -> Any:
    """The first output to `fed`, or how many values it has."""
    if fed is None:
        shape = model.output_shape if hasattr(model, "output_shape") else model.classifier.bias.shape
        return (shape[0] if isinstance(shape, list) else shape)[-1]
    return np.asarray(keras.tree.flatten(model(fed, training=False))[0], np.float64)


def _scores(answers: np.ndarray) -> np.ndarray:
    """Back from probabilities: logarithms for a softmax, log odds for sigmoids, and scores as they are."""
    rows = answers.reshape(-1, answers.shape[-1])
    if rows.min() < 0 or rows.max() > 1:
        return rows
    inside = np.clip(rows, 1e-7, 1 - 1e-7)
    if rows.shape[-1] > 1 and np.allclose(rows.sum(axis=-1), 1, atol=1e-3):
        return np.log(inside)
    return np.log(inside / (1 - inside))
