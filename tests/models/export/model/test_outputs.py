"""Models that answer for each step, or say where they looked, and which of their outputs is which."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from models.errors import ExportRefused
from models.export.graphs.encoder import encoder_onnx
from models.export.graphs.head import head_onnx
from models.export.model.outputs import Steps
from models.export.normalization import Normalization
from models.export.runtime import Runtime
from models.export.split.parity import compare_graphs, compare_split
from models.export.split.reference import Reference
from models.export.split.split import Split, split_model

SIZE = 8


def model_of(build: Any, *, frames: int | None = None) -> keras.Model:
    keras.utils.set_random_seed(3)
    clips = keras.Input((frames, SIZE, SIZE, 3))
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(layers.Rescaling(1 / 64)(clips))
    return keras.Model(clips, build(x))


def exported(model: keras.Model, *, steps: Steps | None = None) -> tuple[Split, dict[str, np.ndarray]]:
    """Split, written, compared with Keras in every output; the answers of the graph are returned for two clips of five frames."""
    split = split_model(model, height=SIZE, width=SIZE, channels=3, steps=steps)
    reference = Reference(split.encoder, split.head)
    compare_split(model, split, reference, normalization=Normalization(), lengths=(1, 4), seed=0)
    head = head_onnx(split.head)
    assert [value.name for value in head.graph.output] == list(split.outputs.names)
    run = Runtime(head)
    for batch, length in ((1, split.static_frames or 1), (2, split.static_frames or 5)):
        features = np.random.default_rng(0).normal(size=(batch, length, split.feature_dim)).astype(np.float32)
        wanted, answers = reference.probabilities(features), run(features)
        assert answers.keys() == wanted.keys()
        for name, found in answers.items():
            np.testing.assert_allclose(found, wanted[name], atol=2e-6, err_msg=name)
    return split, answers


def test_what_is_wrong_with_a_step_is_found_by_the_comparison() -> None:
    model = model_of(steps_of)
    split = split_model(model, height=SIZE, width=SIZE, channels=3, steps="last")
    reference, head = Reference(split.encoder, split.head), head_onnx(split.head)
    compare_graphs(reference, encoder_onnx(split.encoder), head, static_frames=None, seed=0)
    first = next(node for node in head.graph.node if node.name == "positions")
    first.input[0] = next(node for node in head.graph.node if node.op_type == "Softmax").input[0]
    with pytest.raises(ExportRefused, match="differ from Keras"):
        compare_graphs(reference, encoder_onnx(split.encoder), head, static_frames=None, seed=0)


def steps_of(x: Any, classes: int = 3, activation: str = "softmax") -> Any:
    return layers.Dense(classes, activation=activation)(layers.LSTM(5, return_sequences=True)(x))


@pytest.mark.parametrize("frames", [None, 4])
def test_the_mean_of_the_steps_answers_for_the_clip(frames: int | None) -> None:
    split, answers = exported(model_of(steps_of, frames=frames), steps="mean")
    assert (split.positions, split.attention, split.activation) == (True, False, "softmax")
    np.testing.assert_allclose(answers["positions"].mean(axis=1), answers["probabilities"], atol=1e-6)
    assert np.ptp(answers["positions"], axis=1).max() > 1e-3


def test_the_last_step_answers_for_the_clip() -> None:
    split, answers = exported(model_of(layers.TimeDistributed(layers.Dense(4, activation="softmax"))), steps="last")
    assert split.classes == 4
    np.testing.assert_array_equal(answers["positions"][:, -1], answers["probabilities"])


def test_one_sigmoid_for_each_step_becomes_two_classes() -> None:
    split, answers = exported(model_of(lambda x: steps_of(x, 1, "sigmoid")), steps="mean")
    assert split.activation == "sigmoid"
    assert answers["positions"].shape == (2, 5, 2)
    np.testing.assert_allclose(answers["positions"].sum(axis=-1), 1, atol=1e-6)


def test_scores_of_each_step_get_the_activation_before_the_mean() -> None:
    model = model_of(lambda x: steps_of(x, 3, "linear"))
    split = split_model(model, height=SIZE, width=SIZE, channels=3, steps="mean", activation="softmax")
    reference = Reference(split.encoder, split.head)
    compare_split(model, split, reference, normalization=Normalization(), lengths=(1, 4), seed=0)
    answers = reference.probabilities(np.ones((1, 3, split.feature_dim), np.float32))
    np.testing.assert_allclose(answers["positions"].sum(axis=-1), 1, atol=1e-6)


def test_an_answer_for_the_clip_beside_those_of_its_steps_needs_no_flag() -> None:
    def build(x: Any) -> list[Any]:
        steps = steps_of(x)
        return [steps, layers.GlobalAveragePooling1D()(steps)]

    split, answers = exported(model_of(build))
    assert (split.outputs.probabilities, split.outputs.positions, split.outputs.steps) == (1, 0, None)
    np.testing.assert_allclose(answers["positions"].mean(axis=1), answers["probabilities"], atol=1e-6)


def attending(x: Any, *, form: str) -> list[Any]:
    """A model with its attention `[B, T]` in one of the forms in which users give it."""
    if form == "heads":
        mixed, scores = layers.MultiHeadAttention(2, 4)(x, x, return_attention_scores=True)
    elif form == "queries":
        mixed, scores = layers.Attention()([x, layers.Dense(3)(x)], return_attention_scores=True)
    else:
        column = layers.Softmax(axis=1)(layers.Dense(1)(x))
        mixed = layers.Multiply()([x, column])
        scores = {"column": column, "row": layers.Permute((2, 1))(column), "flat": layers.Flatten()(column)}[form]
    return [layers.Dense(3, activation="softmax")(ops.sum(mixed, axis=1)), scores]


@pytest.mark.parametrize("form", ["flat", "column", "row", "queries", "heads"])
@pytest.mark.parametrize("frames", [None, 4])
def test_attention_is_one_weight_for_each_frame(form: str, frames: int | None) -> None:
    split, answers = exported(model_of(lambda x: attending(x, form=form), frames=frames))
    assert split.attention
    assert answers["attention"].shape == answers["attention"].shape[:2]
    np.testing.assert_allclose(answers["attention"].sum(axis=1), 1, atol=1e-5)


def test_of_as_many_classes_as_frames_the_name_tells_attention_apart() -> None:
    def build(x: Any) -> list[Any]:
        weights = layers.Softmax(name="attention_weights")(layers.Flatten()(layers.Dense(1)(x)))
        return [weights, layers.Dense(4, activation="softmax")(layers.Dot(axes=1)([weights, x]))]

    split, _ = exported(model_of(build, frames=4))
    assert (split.outputs.probabilities, split.outputs.attention) == (1, 0)


def test_steps_and_attention_are_told_apart() -> None:
    def build(x: Any) -> list[Any]:
        return [steps_of(x), layers.Softmax(axis=1)(layers.Dense(1)(x))]

    split, answers = exported(model_of(build), steps="last")
    assert (split.outputs.positions, split.outputs.attention) == (0, 1)
    assert set(answers) == {"probabilities", "attention", "positions"}


def test_the_largest_of_sigmoids_is_a_probability_and_of_softmaxes_is_not() -> None:
    for activation, found in (("sigmoid", "sigmoid"), ("softmax", "none")):
        model = model_of(lambda x, activation=activation: layers.GlobalMaxPooling1D()(steps_of(x, 3, activation)))
        assert split_model(model, height=SIZE, width=SIZE, channels=3).activation == found


REFUSED: dict[str, tuple[Any, Steps | None, str]] = {
    "steps where there are none": (
        lambda x: layers.Dense(3, activation="softmax")(layers.LSTM(4)(x)),
        "mean",
        r"one answer for the whole clip; --steps mean .*leave it out",
    ),
    "two answers": (
        lambda x: [layers.Dense(3)(layers.LSTM(4)(x)), layers.Dense(5)(layers.LSTM(4)(x))],
        None,
        r"gives \[None, 3\], \[None, 5\]; expected probabilities",
    ),
    "steps that are fewer than the frames": (
        lambda x: layers.Dense(3, activation="softmax")(layers.AveragePooling1D(2, padding="same")(x)),
        "mean",
        r"of 2 frames .* make positions \[1, 1, 3\] that are not one for each frame",
    ),
    "a head that counts its frames": (
        lambda x: layers.Dense(3, activation="softmax")(x[:, 3]),
        None,
        r"do not take 1 frames \(.*out of bounds.*fixed number of frames",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_outputs_that_say_nothing_of_a_clip_are_refused(name: str) -> None:
    build, steps, message = REFUSED[name]
    with pytest.raises(ExportRefused, match=message):
        split_model(model_of(build), height=SIZE, width=SIZE, channels=3, steps=steps)
