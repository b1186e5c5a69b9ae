"""Every layer that the head writer knows gives what Keras gives, at any B and T, and without a loop."""

from __future__ import annotations

import keras
import pytest
from keras import layers, ops

from tests.models.export.graphs.head.cases import ACTIVATIONS, LAYER_ACTIVATIONS, RECURRENT, SEQUENCES, VECTORS
from tests.models.export.graphs.head.heads import agree, classify, head_of, last


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
