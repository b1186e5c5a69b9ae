"""Where a model is cut, and why it is refused where it cannot be."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from models.errors import ExportRefused
from models.export.normalization import Normalization
from models.export.split.parity import compare_split
from models.export.split.reference import Reference
from models.export.split.split import Split, split_model

SIZE = 12


def cnn(filters: int = 4) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(filters, 3),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
        ]
    )


def clips_input(frames: int | None = None) -> Any:
    return keras.Input((frames, SIZE, SIZE, 3))


def recurrent(x: Any) -> Any:
    return layers.Dense(3, activation="softmax")(layers.LSTM(5)(x))


def split(model: keras.Model, **changes: Any) -> Split:
    return split_model(model, **{"height": SIZE, "width": SIZE, "channels": 3, **changes})


def same(model: keras.Model, found: Split, *, lengths: tuple[int, ...] = (1, 3)) -> None:
    """Encoder and head together are the model, in every output."""
    reference = Reference(found.encoder, found.head)
    assert compare_split(model, found, reference, normalization=Normalization(), lengths=lengths, seed=0) < 1e-5


def names(model: keras.Model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers if not isinstance(layer, layers.InputLayer)]


def test_layers_before_the_cnn_belong_to_the_encoder() -> None:
    clips = clips_input()
    x = layers.Dropout(0.5)(layers.Rescaling(1 / 255)(clips))
    model = keras.Model(clips, recurrent(layers.BatchNormalization()(layers.TimeDistributed(cnn())(x))))
    found = split(model)
    assert names(found.encoder) == ["Rescaling", "Dropout", "Conv2D", "BatchNormalization", "GlobalAveragePooling2D"]
    assert names(found.head) == ["BatchNormalization", "LSTM", "Dense"]
    assert (found.feature_dim, found.classes, found.static_frames) == (4, 3, None)
    same(model, found)


def test_a_normalization_that_was_fitted_on_clips_works_on_frames() -> None:
    clips = clips_input()
    fitted = layers.Normalization()
    fitted.adapt(np.random.default_rng(0).normal(90, 40, (2, 3, SIZE, SIZE, 3)))
    model = keras.Model(clips, recurrent(layers.TimeDistributed(cnn())(fitted(clips))))
    same(model, split(model))


def test_a_batchnorm_over_clips_works_on_frames() -> None:
    clips = clips_input()
    norm = layers.BatchNormalization(axis=4)
    model = keras.Model(clips, recurrent(layers.TimeDistributed(cnn())(norm(clips))))
    norm.moving_mean.assign([90.0, 100, 110])
    norm.moving_variance.assign([900.0, 1000, 1100])
    same(model, split(model))


def test_a_chain_of_time_distributed_layers_is_one_encoder() -> None:
    clips = clips_input()
    x = clips / 127.5 - 1.0
    for layer in (layers.Conv2D(4, 3), layers.ReLU(), layers.MaxPooling2D(), layers.Flatten()):
        x = layers.TimeDistributed(layer)(x)
    model = keras.Model(clips, recurrent(x))
    found = split(model)
    assert found.feature_dim == 100
    same(model, found)


def test_two_networks_of_the_same_frames_are_joined_before_the_cut() -> None:
    clips = clips_input()
    both = layers.Concatenate()([layers.TimeDistributed(cnn(4))(clips), layers.TimeDistributed(cnn(6))(clips)])
    model = keras.Model(clips, recurrent(both))
    found = split(model)
    assert found.feature_dim == 10
    same(model, found)


def test_wide_features_are_cut_after_the_dense_that_narrows_them() -> None:
    clips = keras.Input((None, 40, 40, 3))
    x = layers.TimeDistributed(layers.Flatten())(clips)
    model = keras.Model(clips, recurrent(layers.TimeDistributed(layers.Dense(16))(x)))
    assert split(model, height=40, width=40).feature_dim == 16


def test_a_nested_model_and_a_sequential_are_split_as_if_written_out() -> None:
    inner = keras.Sequential([clips_input(), layers.TimeDistributed(cnn()), layers.LSTM(5)])
    model = keras.Sequential([clips_input(), inner, layers.Dense(3, activation="softmax")])
    found = split(model)
    assert names(found.head) == ["LSTM", "Dense"]
    same(model, found)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_model_of_mixed_precision_is_exported_in_float32(policy: str) -> None:
    clips, mixed = clips_input(), keras.DTypePolicy(policy)
    x = layers.TimeDistributed(layers.Conv2D(4, 3, dtype=mixed), dtype=mixed)(clips / 255.0)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D(dtype=mixed), dtype=mixed)(x)
    x = layers.Bidirectional(layers.LSTM(4, dtype=mixed), dtype=mixed)(x)
    model = keras.Model(clips, layers.Dense(3, activation="softmax", dtype="float32")(x))
    found = split(model)
    every = (*found.encoder._flatten_layers(), *found.head._flatten_layers())
    assert {layer.compute_dtype for layer in every} == {"float32"}
    compare_split(
        model, found, Reference(found.encoder, found.head), normalization=Normalization(), lengths=(3,), seed=0
    )


def test_a_layer_that_does_not_take_what_it_is_given_is_named() -> None:
    class Picky(layers.Layer):
        refuses = False

        def call(self, inputs: Any) -> Any:
            return inputs

        def compute_output_shape(self, input_shape: Any) -> Any:
            if self.refuses:
                raise RuntimeError("no frames alone")
            return input_shape

    clips = clips_input()
    model = keras.Model(
        clips, recurrent(layers.TimeDistributed(cnn())(layers.TimeDistributed(Picky(name="picky"))(clips)))
    )
    Picky.refuses = True
    with pytest.raises(
        ExportRefused, match=r"layer 'picky' \(Picky\) does not take \[None, 12, 12, 3\].*no frames alone"
    ):
        split(model)


def test_a_recurrence_that_an_engine_lacks_is_told() -> None:
    clips = clips_input()
    x = layers.TimeDistributed(cnn())(clips)
    cells = layers.RNN([layers.LSTMCell(4), layers.GRUCell(3, recurrent_activation="hard_sigmoid")], name="odd")
    (note,) = split(keras.Model(clips, layers.Dense(3)(layers.Bidirectional(cells, name="both")(x)))).notes
    assert note.startswith(
        "layer 'both' (Bidirectional) computes hard_sigmoid in its recurrence, which OpenVINO cannot"
    )
    assert split(keras.Model(clips, recurrent(x))).notes == ()


def test_attention_is_found_whichever_output_it_is() -> None:
    clips = clips_input()
    x = layers.TimeDistributed(cnn())(clips)
    weights = layers.Softmax(axis=1)(layers.Dense(1)(x))
    answer = layers.Dense(3, activation="softmax")(ops.sum(layers.Multiply()([x, weights]), axis=1))
    for outputs, place in (([answer, weights], 0), ([weights, answer], 1)):
        model = keras.Model(clips, outputs)
        found = split(model)
        assert (found.attention, found.outputs.probabilities, found.activation) == (True, place, "softmax")
        same(model, found)


def test_the_split_leaves_the_users_model_alone() -> None:
    clips = clips_input()
    model = keras.Model(clips, recurrent(layers.TimeDistributed(cnn())(clips)))
    found = split(model)
    before = [weight.numpy() for weight in model.weights]
    for weight in (*found.encoder.weights, *found.head.weights):
        weight.assign(weight * 0)
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_convolution_over_time_is_refused_by_name() -> None:
    clips = clips_input()
    x = layers.Conv3D(4, 3, padding="same", name="volume")(clips)
    model = keras.Model(clips, recurrent(layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)))
    with pytest.raises(
        ExportRefused,
        match=r"layer 'volume' \(Conv3D\) reads \[None, None, 12, 12, 3\] of several frames at once.*TimeDistributed",
    ):
        split(model)


def test_a_sequence_of_answers_is_refused_with_the_remedy() -> None:
    clips = clips_input()
    x = layers.LSTM(5, return_sequences=True)(layers.TimeDistributed(cnn())(clips))
    with pytest.raises(
        ExportRefused,
        match=r"gives \[None, None, 3\].*--steps mean or --steps last.*GlobalAveragePooling1D or return_sequences=False",
    ):
        split(keras.Model(clips, layers.Dense(3, activation="softmax")(x)))


def test_two_inputs_are_refused() -> None:
    clips, more = clips_input(), keras.Input((4,))
    x = layers.Concatenate()([layers.LSTM(5)(layers.TimeDistributed(cnn())(clips)), more])
    with pytest.raises(ExportRefused, match="expected one input"):
        split(keras.Model([clips, more], layers.Dense(3)(x)))


def test_frames_of_another_size_than_the_models_are_refused() -> None:
    clips = clips_input()
    model = keras.Model(clips, recurrent(layers.TimeDistributed(cnn())(clips)))
    with pytest.raises(ExportRefused, match=r"takes frames \[12, 12, 3\], asked for are \[12, 12, 1\]"):
        split(model, channels=1)


def test_a_subclassed_model_is_refused_with_the_remedy() -> None:
    class Own(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    with pytest.raises(ExportRefused, match=r"'\w+' \(Own\) is subclassed.*functional"):
        split(Own())


def test_an_image_network_is_cut_before_its_last_dense() -> None:
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Dropout(0.2)(layers.Dense(8, activation="relu")(layers.Flatten()(layers.Conv2D(4, 3)(image))))
    found = split(keras.Model(image, layers.Softmax()(layers.Dense(3)(x))))
    assert (found.source, found.feature_dim, found.activation) == ("image", 8, "softmax")
    assert names(found.head) == ["Dense", "Softmax", "GlobalAveragePooling1D"]


def test_an_image_network_without_a_dense_is_cut_at_its_scores() -> None:
    image = keras.Input((SIZE, SIZE, 3))
    scores = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(image))
    found = split(keras.Model(image, layers.Activation("softmax")(scores)))
    assert (found.feature_dim, names(found.head)) == (3, ["Activation", "GlobalAveragePooling1D"])
