"""One step of training: the loss, its gradient, and what the optimizer makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.errors import BuildError
from models.schedule import Stage, Training
from models.training.part import Part
from models.training.precision import is_mixed


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips that are in memory at once: `rows` `[b, T, …]`, `classes` `[b]`, `weights` `[b]` and, where they are known, `places` `[b, P]` (−1: not)."""

    rows: NDArray[np.float32]
    classes: NDArray[np.int64]
    weights: NDArray[np.float32]
    places: NDArray[np.int64] | None = None


class Step:
    """Trains `part` by one batch, or by several whose gradients are added up as if they were one."""

    def __init__(self, part: Part, training: Training, stage: Stage) -> None:
        self._part, self._smoothing, self._places_weight = part, stage.label_smoothing, training.places_weight
        self.optimizer = _optimizer(training, stage)
        self._mixed = is_mixed(training)
        self._lost: list[str] = []
        if self._mixed:
            self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
        self.optimizer.build(part.trainable)
        self._at_once = tf.function(self._train, reduce_retracing=True)
        self._gradients = tf.function(self._gradient, reduce_retracing=True)
        self._apply = tf.function(self._applied)

    @property
    def skips_infinite(self) -> bool:
        """Whether a gradient that is no number is left out, and the next loss scaled less."""
        return self._mixed

    def __call__(self, parts: Sequence[Batch]) -> tuple[float, float]:
        """The mean loss of all clips, without penalties, and the norm of the whole gradient before it is clipped.

        Raises BuildError where a part of the network has no influence on the loss.
        """
        loss, norm = self._one(parts[0]) if len(parts) == 1 else self._several(parts)
        if self._lost:
            raise BuildError(
                f"the loss does not depend on {', '.join(self._lost[:3])}: nothing can be learned there; connect it to probabilities, "
                "weigh the loss of its output (training.places_weight), or leave it out"
            )
        return loss, norm

    def _one(self, batch: Batch) -> tuple[float, float]:
        loss, norm = self._at_once(*_tensors(batch))
        return float(loss), float(norm)

    def _several(self, parts: Sequence[Batch]) -> tuple[float, float]:
        count = sum(len(each.classes) for each in parts)
        total: list[Any] = []
        loss = 0.0
        for number, each in enumerate(parts):
            share = tf.constant(len(each.classes) / count, tf.float32)
            # The penalty does not depend on the clips: it counts once.
            found, gradient = self._gradients(_tensors(each), share, tf.constant(number == 0))
            total = [one + other for one, other in zip(total, gradient, strict=True)] if total else list(gradient)
            loss += float(found) * len(each.classes) / count
        return loss, float(self._apply(total))

    def _train(self, *batch: Any) -> tuple[Any, Any]:
        loss, gradient = self._gradient(batch)
        return loss, self._applied(gradient)

    def _gradient(self, batch: tuple[Any, ...], share: Any = None, first: Any = None) -> tuple[Any, Any]:
        rows, classes, weights, places = batch
        with tf.GradientTape() as tape:
            outputs = self._part(rows, training=True)
            probabilities = outputs["probabilities"]
            count = probabilities.shape[-1]
            wanted = tf.one_hot(classes, count) * (1.0 - self._smoothing) + self._smoothing / count
            loss = tf.reduce_mean(weights * keras.losses.categorical_crossentropy(wanted, probabilities))
            if places is not None:
                loss += self._places_weight * _places_loss(outputs["positions"], places)
            total = loss + self._part.penalty() if share is None else share * loss + _once(self._part.penalty(), first)
            if self._mixed:
                total = self.optimizer.scale_loss(total)
        return loss, self._whole(tape.gradient(total, self._part.trainable))

    def _whole(self, gradient: Sequence[Any]) -> list[Any]:
        """`gradient` without gaps; the variables that it leaves out are noted, since what is raised in a graph comes out as another error."""
        pairs = list(zip(gradient, self._part.trainable, strict=True))
        self._lost = [variable.path for found, variable in pairs if found is None]
        return [tf.zeros(variable.shape) if found is None else tf.convert_to_tensor(found) for found, variable in pairs]

    def _applied(self, gradient: Any) -> Any:
        norm = tf.linalg.global_norm(gradient)
        if self._mixed:
            norm /= tf.convert_to_tensor(self.optimizer.dynamic_scale)
        self.optimizer.apply_gradients(zip(gradient, self._part.trainable, strict=True))
        return norm


def _optimizer(training: Training, stage: Stage) -> Any:
    clipping = {"clipvalue": training.clip_value} if training.clip_value else {"clipnorm": training.clip_norm or 1.0}
    if not training.weight_decay:
        return keras.optimizers.Adam(stage.rate, **clipping)
    optimizer = keras.optimizers.AdamW(stage.rate, weight_decay=training.weight_decay, **clipping)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _places_loss(positions: Any, places: Any) -> Any:
    """The mean over clips of the mean cross-entropy of a clip's known places; 0 for a clip without any."""
    known = tf.cast(places >= 0, tf.float32)
    each = keras.losses.sparse_categorical_crossentropy(tf.maximum(places, 0), positions)
    return tf.reduce_mean(tf.math.divide_no_nan(tf.reduce_sum(each * known, 1), tf.reduce_sum(known, 1)))


def _once(penalty: Any, first: Any) -> Any:
    return tf.where(first, penalty, 0.0)


def _tensors(batch: Batch) -> tuple[Any, ...]:
    given = (batch.rows, batch.classes, batch.weights, batch.places)
    return tuple(None if each is None else tf.constant(each) for each in given)
