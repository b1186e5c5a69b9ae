"""The graph of a whole head: its outputs, its shared weights, its shapes and its names."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from models.export.graphs.head import head_onnx
from tests.models.export.graphs.head.heads import DIM, agree, classify, head_of, last


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
