"""The layers and operations that the head writer knows, each in its forms."""

# ruff: noqa: PLW0108 -- a lambda makes its layer anew: with fresh weights, in the test that needs it
from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from models.zoo.layers import CellMotion, TemporalDifference
from tests.models.export.graphs.head.heads import DIM, Build


def states(x: Any, units: int) -> Any:
    """An initial state `[B, units]` that depends on the clip."""
    return layers.Dense(units, activation="tanh")(layers.GlobalAveragePooling1D()(x))


def decoded(x: Any, kind: Any) -> Any:
    """An encoder whose last states are those that a decoder of four steps begins with."""
    last, *ended = kind(5, return_state=True)(x)
    steps = kind(5, return_sequences=True)(layers.RepeatVector(4)(last), initial_state=ended)
    return layers.GlobalMaxPooling1D()(steps)


RECURRENT: dict[str, Build] = {
    "lstm": lambda x: layers.LSTM(5)(x),
    "lstm of relu": lambda x: layers.LSTM(5, activation="relu", recurrent_activation="hard_sigmoid")(x),
    "lstm without bias": lambda x: layers.LSTM(5, use_bias=False)(x),
    "lstm with recurrent dropout": lambda x: layers.LSTM(5, dropout=0.3, recurrent_dropout=0.3)(x),
    "lstm backwards": lambda x: layers.LSTM(5, go_backwards=True)(x),
    "gru": lambda x: layers.GRU(5)(x),
    "gru that resets before": lambda x: layers.GRU(5, reset_after=False)(x),
    "gru without bias": lambda x: layers.GRU(5, use_bias=False)(x),
    "gru of hard_sigmoid": lambda x: layers.GRU(5, recurrent_activation="hard_sigmoid")(x),
    "simple rnn": lambda x: layers.SimpleRNN(5)(x),
    "stacked": lambda x: layers.GRU(4)(layers.LSTM(5, return_sequences=True)(layers.LSTM(7, return_sequences=True)(x))),
    "states": lambda x: layers.Concatenate()(layers.LSTM(5, return_state=True)(x)),
    "state of a gru": lambda x: layers.Concatenate()(layers.GRU(5, return_state=True)(x)),
    **{
        f"bidirectional {kind.__name__} {mode}": lambda x, kind=kind, mode=mode: layers.Bidirectional(kind(5), mode)(x)
        for kind in (layers.LSTM, layers.GRU)
        for mode in ("concat", "sum", "mul", "ave")
    },
    "bidirectional apart": lambda x: layers.Concatenate()(layers.Bidirectional(layers.LSTM(5), None)(x)),
    "bidirectional of two kinds": lambda x: layers.Bidirectional(
        layers.LSTM(5), backward_layer=layers.GRU(5, go_backwards=True)
    )(x),
    "rnn of an lstm cell": lambda x: layers.RNN(layers.LSTMCell(5))(x),
    "rnn of a gru cell": lambda x: layers.RNN(layers.GRUCell(5, reset_after=False), unroll=False)(x),
    "rnn of a simple cell": lambda x: layers.RNN(layers.SimpleRNNCell(5, activation="relu"))(x),
    "rnn of cells": lambda x: layers.RNN([layers.LSTMCell(5), layers.GRUCell(4), layers.LSTMCell(3)])(x),
    "rnn of cells backwards": lambda x: layers.RNN([layers.LSTMCell(5), layers.GRUCell(4)], go_backwards=True)(x),
    "states of cells": lambda x: layers.Concatenate()(
        keras.tree.flatten(layers.RNN([layers.LSTMCell(5), layers.GRUCell(4)], return_state=True)(x))
    ),
    "bidirectional rnn of a cell": lambda x: layers.Bidirectional(layers.RNN(layers.LSTMCell(5)))(x),
    "bidirectional rnn of cells": lambda x: layers.Bidirectional(layers.RNN([layers.LSTMCell(5), layers.GRUCell(4)]))(
        x
    ),
    **{
        f"bidirectional states {mode}": lambda x, mode=mode: layers.Concatenate()(
            layers.Bidirectional(layers.LSTM(5, return_state=True), mode)(x)
        )
        for mode in ("concat", "sum", None)
    },
    "bidirectional states of cells": lambda x: layers.Concatenate()(
        keras.tree.flatten(
            layers.Bidirectional(layers.RNN([layers.LSTMCell(5), layers.GRUCell(4)], return_state=True))(x)
        )
    ),
    "initial states of an lstm": lambda x: layers.LSTM(5)(x, initial_state=[states(x, 5), states(x, 5)]),
    "initial state of a gru backwards": lambda x: layers.GRU(5, go_backwards=True)(x, initial_state=states(x, 5)),
    "initial states of cells": lambda x: layers.RNN([layers.LSTMCell(5), layers.GRUCell(4)])(
        x, initial_state=[[states(x, 5), states(x, 5)], states(x, 4)]
    ),
    "initial states of both directions": lambda x: layers.Bidirectional(layers.LSTM(5))(
        x, initial_state=[states(x, 5) for _ in range(4)]
    ),
    "initial states of two nodes": lambda x: layers.Bidirectional(
        layers.GRU(5), backward_layer=layers.GRU(5, reset_after=False, go_backwards=True)
    )(x, initial_state=[states(x, 5), states(x, 5)]),
    "encoder and decoder": lambda x: decoded(x, layers.LSTM),
    "encoder and decoder of grus": lambda x: decoded(x, layers.GRU),
    **{
        f"{activation} in a recurrence": lambda x, activation=activation: layers.GRU(4, activation=activation)(
            layers.LSTM(5, activation=activation, return_sequences=True)(x)
        )
        for activation in ("leaky_relu", "softsign", "softplus", "hard_sigmoid")
    },
}
SEQUENCES: dict[str, Build] = {
    "lstm": lambda x: layers.LSTM(5, return_sequences=True)(x),
    "lstm backwards": lambda x: layers.LSTM(5, return_sequences=True, go_backwards=True)(x),
    **{
        f"bidirectional {mode}": lambda x, mode=mode: layers.Bidirectional(layers.GRU(5, return_sequences=True), mode)(
            x
        )
        for mode in ("concat", "sum", "mul", "ave")
    },
    "bidirectional of two kinds": lambda x: layers.Bidirectional(
        layers.LSTM(5, return_sequences=True), backward_layer=layers.GRU(5, go_backwards=True, return_sequences=True)
    )(x),
    "bidirectional that starts backwards": lambda x: layers.Bidirectional(
        layers.GRU(5, return_sequences=True, go_backwards=True), backward_layer=layers.GRU(5, return_sequences=True)
    )(x),
    "attention": lambda x: layers.Attention()([x, x]),
    "attention of query, value and key": lambda x: layers.Attention(use_scale=True)(
        [x, layers.Dense(4)(x), layers.Dense(6)(x)]
    ),
    "attention by concatenation": lambda x: layers.Attention(score_mode="concat", use_scale=True)([x, x]),
    "additive attention": lambda x: layers.AdditiveAttention()([x, x]),
    "additive attention without scale": lambda x: layers.AdditiveAttention(use_scale=False)([x, x]),
    "multi-head attention": lambda x: layers.MultiHeadAttention(2, 4)(x, x),
    "multi-head attention of other sizes": lambda x: layers.MultiHeadAttention(
        3, 4, value_dim=5, output_shape=7, use_bias=False, dropout=0.2
    )(layers.Dense(5)(x), x),
    "batch normalisation": lambda x: layers.BatchNormalization()(x),
    "batch normalisation without scale": lambda x: layers.BatchNormalization(scale=False, center=False)(x),
    "layer normalisation": lambda x: layers.LayerNormalization(epsilon=1e-2)(x),
    "layer normalisation without scale": lambda x: layers.LayerNormalization(scale=False, center=False)(x),
    "normalisation": lambda x: layers.Normalization(mean=[1.0, 2, 3, 4, 5, 6], variance=[1.0, 2, 3, 4, 5, 6])(x),
    "rescaling": lambda x: layers.Rescaling(0.5, 0.25)(x),
    "dropouts": lambda x: layers.SpatialDropout1D(0.5)(layers.GaussianNoise(0.5)(layers.Dropout(0.5)(x))),
    "time-distributed dense": lambda x: layers.TimeDistributed(layers.Dense(4, activation="relu"))(x),
    "time-distributed model": lambda x: layers.TimeDistributed(
        keras.Sequential([keras.Input((DIM,)), layers.Dense(4), layers.BatchNormalization()])
    )(x),
    "nested model": lambda x: keras.Sequential([keras.Input((None, DIM)), layers.Dense(4), layers.ReLU()])(x),
    "sum of layers": lambda x: layers.Add()([x, layers.Dense(DIM)(x), layers.Dense(1)(x)]),
    "products and extremes": lambda x: layers.Maximum()(
        [layers.Multiply()([x, x]), layers.Minimum()([x, layers.Subtract()([x, layers.Dense(DIM)(x)])])]
    ),
    "average": lambda x: layers.Average()([x, layers.Dense(DIM)(x)]),
    "concatenation": lambda x: layers.Concatenate()([x, layers.Dense(2)(x)]),
    "operators": lambda x: (x + layers.Dense(DIM)(x)) * 0.5 - x / 3.0,
    "numbers first": lambda x: 1.0 - 2.0 * x,
    "operations": lambda x: ops.maximum(ops.abs(x), ops.sqrt(ops.square(x) + 1.0)),
    "repeated": lambda x: layers.RepeatVector(3)(layers.GlobalMaxPooling1D()(x)),
    "soft maximum over time": lambda x: layers.Multiply()([x, layers.Softmax(axis=1)(layers.Dense(1)(x))]),
    "differences in time": lambda x: TemporalDifference()(x),
    "motion of cells": lambda x: CellMotion(2)(x),
    "slices": lambda x: ops.concatenate([x[:, :, 1:4], x[:, :, -2:]], axis=-1),
}
VECTORS: dict[str, Build] = {
    "average over time": lambda x: layers.GlobalAveragePooling1D()(x),
    "maximum over time": lambda x: layers.GlobalMaxPooling1D()(x),
    "kept dimensions": lambda x: layers.Flatten()(layers.GlobalAveragePooling1D(keepdims=True)(layers.Dense(4)(x))),
    "mean by operation": lambda x: ops.mean(x, axis=1),
    "sum by operation": lambda x: ops.squeeze(ops.sum(x, axis=1, keepdims=True), axis=1),
    "last frame": lambda x: x[:, -1],
    "first frame": lambda x: x[:, 0, :],
    "mean of a slice": lambda x: ops.mean(x[:, -3:], axis=1),
    "attention by hand": lambda x: layers.Dot(axes=1)([layers.Softmax()(layers.Flatten()(layers.Dense(1)(x))), x]),
    "attention by permuting": lambda x: ops.sum(
        layers.Multiply()(
            [x, layers.Permute((2, 1))(layers.RepeatVector(DIM)(layers.Softmax()(layers.Flatten()(layers.Dense(1)(x)))))]
        ),
        axis=1,
    ),
    "attention by matmul": lambda x: ops.squeeze(
        ops.matmul(ops.transpose(ops.softmax(layers.Dense(1)(x), axis=1), (0, 2, 1)), x), axis=1
    ),
    "reshape": lambda x: layers.Reshape((2, 3))(layers.GlobalAveragePooling1D()(x))[:, 1],
}  # fmt: skip
ACTIVATIONS = (
    "linear", "relu", "relu6", "leaky_relu", "sigmoid", "tanh", "softmax", "log_softmax", "elu", "selu", "softplus", "softsign",
    "exponential", "hard_sigmoid", "hard_silu", "silu", "mish", "gelu",
)  # fmt: skip
LAYER_ACTIVATIONS = (
    layers.ReLU(max_value=2.0),
    layers.ReLU(negative_slope=0.1),
    layers.LeakyReLU(0.3),
    layers.ELU(0.7),
)
