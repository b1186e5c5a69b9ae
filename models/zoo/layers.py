"""Layers of our own, each of a few plain operations, so that a head with them can be written node by node in ONNX."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="marey")
class TemporalDifference(keras.layers.Layer):  # type: ignore[misc]  # keras ships no type information
    """Features `[B, T, D]` → `[B, T, 2·D]`: each with its change since the frame before, `[x_t, x_t − x_{t−1}]`.

    The first frame has no frame before it: its change is 0, so a clip of one frame works. Features that were averaged over
    space say little of motion; their differences say more.
    """

    def call(self, inputs: Any) -> Any:
        before = ops.concatenate([inputs[:, :1], inputs[:, :-1]], axis=1)
        return ops.concatenate([inputs, inputs - before], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], None if input_shape[-1] is None else 2 * input_shape[-1])
