"""Every layer that the head writer knows gives what Keras gives, at any B and T, and without a loop."""

# ruff: noqa: PLW0108 -- a lambda makes its layer anew: with fresh weights, in the test that needs it
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers, ops

from models.errors import ExportRefused
from models.export.artifact import artifact
from models.export.gate import build_gate
from models.export.graphs.head import head_onnx
from models.export.runtime import Runtime
from models.export.split.reference import Reference
from models.zoo.layers import CellMotion, TemporalDifference
from service.bundle.store import find_bundles, open_bundle
from service.engine.profiles import profiles_of

DIM = 6
SHAPES = ((1, 1), (2, 7), (3, 12))
Build = Callable[[Any], Any]


def head_of(build: Build, *, frames: int | None = None) -> keras.Model:
    """A head of `build` on features `[B, T, 6]`, with weights and statistics that are not those of a new model."""
    keras.utils.set_random_seed(11)
    features = keras.Input((frames, DIM))
    built = build(features)
    model = keras.Model(features, built if isinstance(built, dict) else {"probabilities": built})
    random = np.random.default_rng(4)
    for weight in model.weights:
        positive = "variance" in weight.path or "gamma" in weight.path
        weight.assign(random.uniform(0.5, 1.5, weight.shape) if positive else random.normal(0, 0.5, weight.shape))
    return model


def agree(model: keras.Model, *, shapes: tuple[tuple[int, int], ...] = SHAPES) -> onnx.ModelProto:
    written = head_onnx(model)
    run, random = Runtime(written), np.random.default_rng(8)
    for batch, frames in shapes:
        features = random.normal(size=(batch, frames, DIM)).astype(np.float32)
        wanted = Reference(model, model).probabilities(features)
        for name, found in run(features).items():
            np.testing.assert_allclose(found, wanted[name], atol=2e-6, err_msg=f"{name} at {batch}, {frames}")
    return written


def classify(x: Any) -> Any:
    return layers.Dense(3, activation="softmax")(x)


def last(x: Any) -> Any:
    """`[B, T, D]` → `[B, 3]` without a layer of interest."""
    return classify(layers.GlobalAveragePooling1D()(x))


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


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_layer_is_one_real_node_and_equals_keras(name: str) -> None:
    written = agree(head_of(lambda x: classify(RECURRENT[name](x))))
    kinds = {node.op_type for node in written.graph.node}
    assert kinds & {"LSTM", "GRU", "RNN"}
    assert not kinds & {"Loop", "Scan", "If"}


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_layer_over_sequences_equals_keras(name: str) -> None:
    agree(head_of(lambda x: last(SEQUENCES[name](x))))


@pytest.mark.parametrize(
    "name", ["lstm backwards", "bidirectional of two kinds", "bidirectional that starts backwards"]
)
def test_the_order_in_time_is_that_of_keras(name: str) -> None:
    agree(head_of(lambda x: classify(SEQUENCES[name](x)[:, 0])))


@pytest.mark.parametrize("name", VECTORS)
def test_a_layer_that_reduces_time_equals_keras(name: str) -> None:
    agree(head_of(lambda x: classify(VECTORS[name](x))))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_equals_keras(name: str) -> None:
    agree(head_of(lambda x: last(layers.Dense(5, activation=name)(x) + layers.Activation(name)(layers.Dense(5)(x)))))


@pytest.mark.parametrize("layer", LAYER_ACTIVATIONS, ids=lambda layer: type(layer).__name__)
def test_an_activation_that_is_a_layer_equals_keras(layer: keras.Layer) -> None:
    agree(head_of(lambda x: last(layers.Dense(5, activation=layer)(x))))


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "softmax", "silu", "gelu"])
def test_an_activation_called_as_a_function_equals_keras(name: str) -> None:
    options = {"approximate": False} if name == "gelu" else {}
    agree(head_of(lambda x: last(getattr(ops, name)(layers.Dense(5)(x), **options))))


def test_attention_over_time_is_a_second_output() -> None:
    def build(x: Any) -> dict[str, Any]:
        weights = layers.Softmax()(layers.Flatten()(layers.Dense(1, activation="tanh")(x)))
        return {"attention": weights, "probabilities": classify(layers.Dot(axes=1)([weights, x]))}

    written = agree(head_of(build))
    assert [value.name for value in written.graph.output] == ["probabilities", "attention"]


def test_scores_of_an_attention_layer_can_be_used() -> None:
    def build(x: Any) -> Any:
        mixed, scores = layers.MultiHeadAttention(2, 4)(x, x, return_attention_scores=True)
        return classify(layers.Concatenate()([ops.mean(mixed, axis=1), ops.max(ops.max(scores, axis=-1), axis=-1)]))

    agree(head_of(build))


def test_a_layer_that_is_called_twice_shares_its_weights() -> None:
    shared = layers.Dense(DIM, activation="tanh")
    agree(head_of(lambda x: last(shared(shared(x)))))


def test_a_fixed_number_of_frames_may_be_flattened() -> None:
    model = head_of(lambda x: classify(layers.Flatten()(x)), frames=4)
    written = agree(model, shapes=((1, 4), (3, 4)))
    assert [part.dim_param or part.dim_value for part in written.graph.input[0].type.tensor_type.shape.dim] == [
        "B",
        4,
        DIM,
    ]


def test_the_names_are_the_same_every_time() -> None:
    model = head_of(lambda x: classify(layers.Bidirectional(layers.LSTM(4))(x)))
    assert head_onnx(model).SerializeToString() == head_onnx(model).SerializeToString()


def beside(builds: dict[str, Build]) -> Build:
    """Several layers over the same sequence, each averaged over time, side by side."""
    return lambda x: layers.Concatenate()([layers.GlobalAveragePooling1D()(build(x)) for build in builds.values()])


# All that the writer knows. Recurrent layers apart: TensorRT takes seconds for one, but minutes and 7 GB for ten abreast.
BUILT: dict[str, Build] = {
    "sequences": beside({name: build for name, build in SEQUENCES.items() if not re.search("lstm|bidirectional|repeated", name)}),
    "vectors": lambda x: layers.Concatenate()([build(x) for build in VECTORS.values()]),
    "activations": beside({str(each): layers.Dense(2, activation=each) for each in (*ACTIVATIONS, *LAYER_ACTIVATIONS)}),
    **{
        name: RECURRENT[name]
        for name in (
            "lstm of relu", "gru of hard_sigmoid", "gru that resets before", "simple rnn", "stacked", "bidirectional LSTM concat",
            "bidirectional GRU sum", "initial states of both directions", "encoder and decoder",
        )
    },
    "lstm backwards": lambda x: SEQUENCES["lstm backwards"](x)[:, 0],
}  # fmt: skip


@pytest.mark.parametrize("name", BUILT)
def test_tensorrt_builds_heads_of_all_layers_in_float_and_in_half(name: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    written = head_onnx(head_of(lambda x: classify(BUILT[name](x))))
    entry = artifact(written.SerializeToString(), "head.onnx", precision="fp32", weights="float32")
    manifest = open_bundle(find_bundles(())[0]).manifest
    profiles = profiles_of(manifest.model_copy(update={"artifacts": {**manifest.artifacts, "head": entry}}), "head")
    for half in (False, True):
        assert build_gate(written, profiles=profiles, half=half).plan_bytes > 10_000


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
