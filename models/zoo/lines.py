"""Layers that read a surface line by line, each of a few plain operations, so that they can be written node by node in ONNX."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="marey")
class EachLine(keras.layers.Layer):  # type: ignore[misc]  # keras ships no type information
    """`[B, lines, steps, D]` → `[B·lines, steps, D]`: a recurrent layer then reads all lines of a picture at once, not one after the other."""

    def call(self, inputs: Any) -> Any:
        return ops.reshape(inputs, (-1, *inputs.shape[2:]))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (None, *input_shape[2:])


@keras.saving.register_keras_serializable(package="marey")
class BackToLines(keras.layers.Layer):  # type: ignore[misc]  # as above
    """`[B·lines, steps, D]` → `[B, lines, steps, D]`."""

    def __init__(self, lines: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.lines = lines

    def call(self, inputs: Any) -> Any:
        return ops.reshape(inputs, (-1, self.lines, *inputs.shape[1:]))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (None, self.lines, *input_shape[1:])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "lines": self.lines}


@keras.saving.register_keras_serializable(package="marey")
class SharpenedMean(keras.layers.Layer):  # type: ignore[misc]  # as above
    """Scores of places `[B, P, K]` → of the picture `[B, K]`: Σ_i z_ik · softmax_i(sharpness_k · z_ik).

    Each class learns how sharp: 0 is the mean over places, for what lies all over the surface, and a large one the largest, for what
    sits in one spot (auto-pooling: McFee, Salamon & Bello 2018, arXiv 1804.10070).
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.sharpness = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="sharpness")

    def call(self, inputs: Any) -> Any:
        return ops.sum(inputs * ops.softmax(self.sharpness * inputs, axis=1), axis=1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], input_shape[-1])
