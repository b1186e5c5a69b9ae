"""What users bring that cannot be taken as it is, each with what the sentence must say: what stands in the way, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

SIZE = 24


@dataclass(frozen=True, slots=True)
class Refusal:
    """`sentence`: what the error must match; `asked`: further arguments of the export."""

    build: Callable[[], keras.Model]
    sentence: str
    asked: dict[str, Any] = field(default_factory=dict)


def _features(clips: Any) -> Any:
    x = layers.TimeDistributed(layers.Conv2D(4, 3, activation="relu"))(clips)
    return layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)


def _clips(frames: int | None = None) -> Any:
    return keras.Input((frames, SIZE, SIZE, 3))


def _answer(x: Any) -> Any:
    return layers.Dense(3, activation="softmax")(x)


def lambda_layer() -> keras.Model:
    """A Lambda whose function is a loop over values."""
    clips = _clips()
    x = layers.LSTM(4)(_features(clips))
    norm = layers.Lambda(lambda value: tf.map_fn(lambda row: row / tf.norm(row), value), output_shape=(4,), name="norm")
    return keras.Model(clips, _answer(norm(x)))


def two_streams() -> keras.Model:
    rgb, flow = _clips(), keras.Input((None, SIZE, SIZE, 2))
    x = layers.Concatenate()([layers.LSTM(4)(_features(rgb)), layers.LSTM(4)(_features(flow))])
    return keras.Model([rgb, flow], _answer(x))


def stateful() -> keras.Model:
    clips = keras.Input((4, SIZE, SIZE, 3), batch_size=1)
    return keras.Model(clips, _answer(layers.LSTM(4, stateful=True, name="memory")(_features(clips))))


def answers_for_each_step() -> keras.Model:
    clips = _clips()
    return keras.Model(clips, _answer(layers.LSTM(4, return_sequences=True)(_features(clips))))


def scores() -> keras.Model:
    clips = _clips()
    return keras.Model(
        clips,
        layers.Dense(3, bias_initializer=keras.initializers.Constant([3.0, -2.0, 1.0]))(
            layers.GRU(4)(_features(clips))
        ),
    )


def no_activation_left() -> keras.Model:
    clips = _clips()
    return keras.Model(clips, _answer(layers.GRU(4)(_features(clips))))


def one_score() -> keras.Model:
    clips = _clips()
    return keras.Model(clips, layers.Dense(1)(layers.GRU(4)(_features(clips))))


def odd_activation() -> keras.Model:
    clips = _clips()
    return keras.Model(clips, _answer(layers.LSTM(4, activation=ops.sin, name="wavy")(_features(clips))))


class Branches(keras.Model):
    """Python that looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.dense = layers.GlobalAveragePooling3D(), layers.Dense(3, activation="softmax")

    def call(self, clips: Any) -> Any:
        x = self.pool(clips)
        if float(ops.max(x)) > 128:
            x = x / 255
        return self.dense(x)


def branches() -> keras.Model:
    model = Branches()
    model(ops.zeros((1, 4, SIZE, SIZE, 3)))
    return model


def nothing_per_frame() -> keras.Model:
    """A model of something else: rows of numbers."""
    rows = keras.Input((40,))
    return keras.Model(rows, _answer(layers.Dense(8)(rows)))


def segmentation() -> keras.Model:
    """An answer for each pixel."""
    image = keras.Input((SIZE, SIZE, 3))
    return keras.Model(image, layers.Conv2D(3, 1, activation="softmax")(layers.Conv2D(4, 3, padding="same")(image)))


REFUSALS: dict[str, Refusal] = {
    "lambda_layer": Refusal(lambda_layer, r"'norm' \(Lambda\).*replace it with a layer, or with the keras\.ops"),
    "two_streams": Refusal(two_streams, r"2 inputs|one input"),
    "stateful": Refusal(stateful, r"'memory' \(LSTM\) has stateful=True.*rebuild it with stateful=False"),
    "answers_for_each_step": Refusal(answers_for_each_step, r"answer for each step.*--steps mean or --steps last"),
    "scores": Refusal(scores, r"ends in plain scores.*--activation softmax or sigmoid"),
    "another_activation": Refusal(no_activation_left, r"ends in softmax already.*leave --activation out", {"activation": "sigmoid"}),
    "a_softmax_of_one": Refusal(one_score, r"a softmax of one value is always 1.*--activation sigmoid", {"activation": "softmax"}),
    "steps_of_one_answer": Refusal(no_activation_left, r"one answer for the whole clip.*leave it out", {"steps": "mean"}),
    "odd_activation": Refusal(odd_activation, r"'wavy' \(LSTM\).*'sin'.*use what Keras has"),
    "branches": Refusal(branches, r"Branches.*line"),
    "nothing_per_frame": Refusal(nothing_per_frame, r"\[None, 40\].*clips \[B, T, H, W, C\]|clips or images"),
    "segmentation": Refusal(segmentation, r"\[None, 24, 24, 3\]"),
}  # fmt: skip
