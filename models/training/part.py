"""A network in two: the CNN up to a cut, and the part after it that is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.errors import RecipeError
from models.schedule import FRAMES
from models.training.rows import Rows
from models.zoo.architecture import ENCODE

FEATURES = "features"
# What a batch of judging may take as its rows, in bytes, and how many clips it has at most.
_JUDGED_BYTES, _JUDGED = 32 * 2**20, 256


class Part:
    """The part of `model` after `cut`: activations, or frames of 0…255, `[B, T, …]` → its outputs by name. It shares `model`'s weights.

    A network of images sees every frame by itself, and a clip's outputs are the mean over its frames, as when serving. With
    `train_batchnorm` the CNN's BatchNorm is trained and uses the batch's statistics; otherwise it keeps those that it has: a
    pretrained CNN's would be spoilt by a batch of a few clips' frames.
    """

    def __init__(self, model: keras.Model, *, cut: str, train_batchnorm: bool = False) -> None:
        self.cut, self._train_batchnorm = cut, train_batchnorm
        self._of_images = len(model.input_shape) == 4
        self.tail: keras.Model | None = None
        self.head = model
        if cut != FRAMES or reads_frames(model):
            encoder, features = encoder_of(model)
            self.tail = encoder if cut == FRAMES else cut_model(encoder, cut=cut)[1]
            self.head = keras.Model(features, model.output)
        self.variables = [*(self.tail.variables if self.tail else ()), *self.head.variables]
        self.trainable = [*self._trainable_of_tail(), *self.head.trainable_variables]
        self._forward = tf.function(self.__call__, reduce_retracing=True)

    def __call__(self, rows: Any, *, training: bool = False) -> dict[str, Any]:
        shape = tf.shape(rows)
        if self._of_images:
            features = self._encoded(_fold(rows), training=training)
            outputs = self._named(self.head(features, training=training))
            return {name: tf.reduce_mean(_unfold(found, shape), 1) for name, found in outputs.items()}
        if self.tail is not None:
            features = self._encoded(_fold(rows), training=training)
            rows = tf.ensure_shape(_unfold(features, shape), self.head.input_shape)
        return self._named(self.head(rows, training=training))

    def penalty(self) -> Any:
        """The sum of the penalties of all layers that are trained."""
        found = [*(self.tail.losses if self.tail else ()), *self.head.losses]
        return tf.add_n([tf.cast(each, tf.float32) for each in found]) if found else tf.constant(0.0)

    def predict(self, rows: Rows) -> NDArray[np.float32]:
        """Probabilities `[clips, K]` of each clip as the server sees it."""
        found: dict[int, NDArray[np.float32]] = {}
        largest = rows.plain(np.array([np.argmax(rows.lengths)])).nbytes
        batch = max(1, min(_JUDGED, _JUDGED_BYTES // largest))
        for chosen in batches(rows.lengths, np.arange(len(rows.lengths)), batch=batch):
            inputs = rows.plain(chosen)
            outputs = self._forward(tf.constant(inputs))["probabilities"].numpy()
            found.update(zip(chosen.tolist(), outputs.astype(np.float32), strict=True))
        return np.stack([found[i] for i in range(len(rows.lengths))])

    def _encoded(self, frames: Any, *, training: bool = False) -> Any:
        if self.tail is None:
            return frames
        frames = tf.ensure_shape(frames, (None, *self.tail.input_shape[1:]))
        return self.tail(frames, training=training and self._train_batchnorm)

    def _trainable_of_tail(self) -> list[Any]:
        if self.tail is None:
            return []
        if self._train_batchnorm:
            return list(self.tail.trainable_variables)
        return _without_batchnorm(self.tail)

    @staticmethod
    def _named(outputs: Any) -> dict[str, Any]:
        named = outputs if isinstance(outputs, dict) else {"probabilities": outputs}
        return {name: tf.cast(found, tf.float32) for name, found in named.items()}


def reads_frames(model: keras.Model) -> bool:
    """Whether `model` has a CNN, and that is what reads its frames."""
    layer = next((layer for layer in model.layers if layer.name == ENCODE), None)
    return layer is not None and layer._inbound_nodes[-1].input_tensors[0] is model.inputs[0]  # noqa: SLF001 -- as below


def encoder_of(model: keras.Model) -> tuple[keras.Model, Any]:
    """The CNN of `model`, of single frames, and its features where they enter the rest. Raises RecipeError where it has none."""
    if not reads_frames(model):
        raise RecipeError(
            f"network {model.name} has no layer {ENCODE!r} that reads its frames, so nothing can be kept; give its stages cut = {FRAMES!r}"
        )
    layer = model.get_layer(ENCODE)
    # A model that is used as a layer has an `output` of its own: that of its inner graph.
    features = layer._inbound_nodes[-1].outputs[0]  # noqa: SLF001 -- Keras has no public way
    return (layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer), features


def cut_model(encoder: keras.Model, *, cut: str) -> tuple[keras.Model, keras.Model | None]:
    """`encoder` in two at `cut`: frames → activations, and activations → features (None where `cut` is `features`).

    `cut` may name a block of the CNN, `block7`, or any of its layers; both parts share their layers with `encoder`. Raises RecipeError.
    """
    if cut == FEATURES:
        return encoder, None
    names = [layer.name for layer in encoder.layers]
    last = next((name for name in (f"{cut}_add", f"{cut}_project_norm", cut) if name in names), None)
    if last is None or last == names[-1]:
        raise RecipeError(
            f"the CNN cannot be cut after {cut!r}; choose {FEATURES}, or one of its blocks before the last"
        )
    activations = encoder.get_layer(last).output
    return keras.Model(encoder.input, activations), keras.Model(activations, encoder.output)


def batches(lengths: Sequence[int], order: NDArray[np.int64], *, batch: int) -> Iterator[NDArray[np.int64]]:
    """`order` in batches whose clips all have the same number of frames, so that none is padded; none is left out."""
    buckets: dict[int, list[int]] = {}
    for i in order.tolist():
        bucket = buckets.setdefault(lengths[i], [])
        bucket.append(i)
        if len(bucket) == batch:
            yield np.array(buckets.pop(lengths[i]))
    yield from (np.array(bucket) for bucket in buckets.values())


def _without_batchnorm(layer: Any) -> list[Any]:
    if isinstance(layer, keras.layers.BatchNormalization):
        return []
    inner = getattr(layer, "layers", None)
    if inner is None:
        return list(layer.trainable_variables)
    return [variable for each in inner for variable in _without_batchnorm(each)]


def _fold(rows: Any) -> Any:
    """`[B, T, …]` → `[B·T, …]`."""
    shape = tf.shape(rows)
    return tf.reshape(rows, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))


def _unfold(rows: Any, shape: Any) -> Any:
    """`[B·T, …]` → `[B, T, …]`, of which `shape` begins with B and T."""
    return tf.reshape(rows, tf.concat([shape[:2], tf.shape(rows)[1:]], 0))
