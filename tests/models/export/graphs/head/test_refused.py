"""What the head writer cannot write is refused by its layer's name, with a remedy."""

# ruff: noqa: PLW0108 -- a lambda makes its layer anew: with fresh weights, in the test that needs it
from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from models.errors import ExportRefused
from models.export.graphs.head import head_onnx
from tests.models.export.graphs.head.heads import DIM, Build, classify


@keras.saving.register_keras_serializable(package="tests")
class Doubled(layers.Dense):
    """A Dense that is none."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return 2 * super().call(inputs, training)


@keras.saving.register_keras_serializable(package="tests")
class OwnCell(layers.SimpleRNNCell):
    """A cell that is none of Keras's."""


def wavy(x: Any) -> Any:
    return ops.sin(x)


REFUSED: dict[str, tuple[Build, str]] = {
    "a mask": (lambda x: layers.LSTM(4)(layers.Masking()(x)), r"layer 'masking\w*' \(Masking\) cannot be written"),
    "a state that is kept": (
        lambda x: layers.GRU(4, stateful=True, name="kept")(x),
        r"layer 'kept' \(GRU\) has stateful=True.*rebuild it with stateful=False",
    ),
    "an odd activation in a recurrence": (
        lambda x: layers.LSTM(4, activation="gelu", name="odd")(x),
        r"layer 'odd' \(LSTM\) has activation 'gelu'.*use one of sigmoid, tanh",
    ),
    "an activation of the user's own": (
        lambda x: layers.Dense(4, activation=wavy, name="own")(x),
        r"layer 'own' \(Dense\) has activation 'wavy'",
    ),
    "a cell of the user's own": (
        lambda x: layers.RNN(OwnCell(4), name="mine")(x),
        r"layer 'mine' \(RNN\) runs the cell OwnCell.*use LSTMCell",
    ),
    "two activations with a slope each": (
        lambda x: layers.GRU(4, "leaky_relu", "hard_sigmoid", name="sloped")(x),
        r"layer 'sloped' \(GRU\) has activations hard_sigmoid and leaky_relu in one cell.*use at most one beside sigmoid",
    ),
    "a bidirectional of such a cell": (
        lambda x: layers.Bidirectional(layers.RNN(OwnCell(4)), name="both")(x),
        r"runs the cell OwnCell.*use LSTMCell",
    ),
    "a subclass of a known layer": (
        lambda x: Doubled(4, name="twice")(x),
        r"layer 'twice' \(Doubled\) cannot be written",
    ),
    "an unknown operation": (lambda x: ops.arctan(x), r"operation 'arctan\w*' \(Arctan\) cannot be written.*Add"),
    "a mask of attention": (
        lambda x: layers.MultiHeadAttention(2, 4, name="seen")(x, x, attention_mask=np.ones((1, 1, 1), bool)),
        r"layer 'seen' \(MultiHeadAttention\) is called with attention_mask",
    ),
    "clips that meet": (lambda x: x - ops.mean(x, axis=0, keepdims=True), r"clips of one batch must not meet"),
    "a lambda": (lambda x: layers.Lambda(lambda y: y, name="code")(x), r"layer 'code' \(Lambda\) cannot be written"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_refused_by_name(name: str) -> None:
    build, reason = REFUSED[name]

    def reduced(x: Any) -> Any:
        y = build(x)
        return classify(ops.mean(y, axis=1) if len(y.shape) == 3 else y)

    keras.utils.set_random_seed(1)
    features = keras.Input((None, DIM), batch_size=2) if name == "a state that is kept" else keras.Input((None, DIM))
    with pytest.raises(ExportRefused, match=reason):
        head_onnx(keras.Model(features, {"probabilities": reduced(features)}))
