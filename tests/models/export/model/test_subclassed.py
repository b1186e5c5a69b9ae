"""Models whose graph only their code knows become functional ones, or are refused with the line that stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from models.errors import ExportRefused
from models.export.model.subclassed import as_functional
from models.export.model.trace import trace
from models.export.normalization import Normalization
from models.export.split.networks import split_networks
from service.bundle.manifest import Input

SIZE = 12
pytestmark = pytest.mark.filterwarnings("ignore:.*retracing", "ignore:.*`build\\(\\)` was called on layer")


def functional_of(model: keras.Model, *, frames: int = 5, color: Any = "rgb") -> keras.Model:
    return as_functional(model, input=Input(height=SIZE, width=SIZE, color=color), frames=frames)


def called(model: keras.Model, *shape: int) -> keras.Model:
    model(np.zeros((2, *shape), np.float32))
    return model


def fed(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).random((3, *shape), np.float32)


def same(model: keras.Model, twin: keras.Model, *shape: int) -> None:
    given = fed(*shape)
    np.testing.assert_allclose(twin(given), model(given), atol=1e-6)


class FrameCnn(layers.Layer):
    """A CNN of a frame, without the compute_output_shape that only symbolic calls need."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.conv = layers.Conv2D(4, 3, activation="relu", name="conv")
        self.pool = layers.GlobalAveragePooling2D(name="pool")

    def call(self, x: Any) -> Any:
        return self.pool(self.conv(x))


class Bahdanau(layers.Layer):
    """Attention as TensorFlow's tutorials write it."""

    def __init__(self, units: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.inner = layers.Dense(units, name="conv")  # a name that FrameCnn has too
        self.outer = layers.Dense(1)

    def call(self, x: Any) -> Any:
        weights = tf.nn.softmax(self.outer(tf.nn.tanh(self.inner(x))), axis=1)
        return tf.reduce_sum(weights * x, axis=1)


class WeightedAttention(layers.Layer):
    """Attention with weights of its own, through a function that keras.ops does not have under this name."""

    def build(self, input_shape: Any) -> None:
        self.w = self.add_weight(shape=(input_shape[-1], 1), name="w")
        self.b = self.add_weight(shape=(1,), initializer="ones", name="b")

    def call(self, x: Any) -> Any:
        weights = tf.nn.softmax(tf.math.tanh(tf.tensordot(x, self.w, axes=1) + self.b), axis=1)
        return tf.reduce_sum(weights * x, axis=1)


class CnnLstm(keras.Model):
    def __init__(self, attention: layers.Layer, **settings: Any) -> None:
        super().__init__(**settings)
        self.each = layers.TimeDistributed(FrameCnn(name="cnn"))
        self.memory = layers.Bidirectional(layers.LSTM(4, return_sequences=True))
        self.attention = attention
        self.drop = layers.Dropout(0.5)
        self.answer = layers.Dense(3, activation="softmax")

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = self.memory(self.each(x / 255.0))
        return self.answer(self.drop(self.attention(x), training=training))


class FoldedByHand(keras.Model):
    """Time into the batch and out again by tf.reshape."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.conv, self.memory, self.answer = layers.Conv2D(4, 3), layers.GRU(5), layers.Dense(3)

    def call(self, x: Any) -> Any:
        batch, time = tf.shape(x)[0], tf.shape(x)[1]
        rows = tf.nn.relu(self.conv(tf.reshape(x, [batch * time, SIZE, SIZE, 3])))
        rows = tf.reshape(tf.reduce_mean(rows, axis=[1, 2]), [batch, time, 4])
        return self.answer(self.memory(rows))


class KerasShapes(keras.Model):
    """`ops.shape` for the batch and the time of a reshape."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.conv, self.memory, self.answer = layers.Conv3D(3, 3), layers.LSTM(5), layers.Dense(3)

    def call(self, x: Any) -> Any:
        x = self.conv(x)
        return self.answer(self.memory(ops.reshape(x, (ops.shape(x)[0], ops.shape(x)[1], -1))))


class Branching(keras.Model):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.conv, self.answer = layers.Conv3D(3, 3), layers.Dense(3)

    def call(self, x: Any) -> Any:
        x = self.conv(x)
        if ops.max(x) > 0:
            x = 2 * x
        return self.answer(ops.mean(x, axis=(1, 2, 3)))


class RowsOfGrey(keras.Model):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.memory, self.answer = layers.LSTM(5), layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.answer(self.memory(x))


@pytest.mark.parametrize("attention", [lambda: Bahdanau(4), WeightedAttention], ids=["ops", "tensordot"])
def test_a_subclassed_model_with_attention_of_its_own_becomes_encoder_and_head(attention: Callable[[], Any]) -> None:
    model = called(CnnLstm(attention()), 5, SIZE, SIZE, 3)
    twin = functional_of(model)
    assert twin.input_shape == (None, None, SIZE, SIZE, 3)
    assert not {"FrameCnn", "Bahdanau", "WeightedAttention"} & {
        type(call.operation).__name__ for call in trace(twin).calls
    }
    same(model, twin, 5, SIZE, SIZE, 3)
    same(model, twin, 2, SIZE, SIZE, 3)
    networks = split_networks(twin, input=Input(height=SIZE, width=SIZE), normalization=Normalization())
    assert list(networks.graphs) == ["encoder", "head"]
    assert networks.network.static_frames is None
    assert "LSTM" in {node.op_type for node in networks.graphs["head"].graph.node}


def test_tensorflow_functions_on_shapes_are_traced_for_any_number_of_frames() -> None:
    model = called(FoldedByHand(), 5, SIZE, SIZE, 3)
    twin = functional_of(model)
    assert twin.input_shape[1] is None
    same(model, twin, 7, SIZE, SIZE, 3)


def test_a_call_that_needs_the_number_of_frames_gets_the_one_that_it_was_built_with() -> None:
    model = called(KerasShapes(), 6, SIZE, SIZE, 3)
    twin = functional_of(model, frames=9)
    assert twin.input_shape == (None, 6, SIZE, SIZE, 3)
    same(model, twin, 6, SIZE, SIZE, 3)


def test_a_branch_on_values_is_refused_with_its_line() -> None:
    model = called(Branching(), 5, SIZE, SIZE, 3)
    with pytest.raises(
        ExportRefused,
        match=r"\(Branching\) cannot be taken apart \(test_subclassed.py, line \d+: if ops.max\(x\) > 0:\)",
    ):
        functional_of(model)


def test_a_model_that_was_never_called_is_refused() -> None:
    with pytest.raises(
        ExportRefused, match=r"does not say what it takes.*call it on one batch of clips \[B, 5, 12, 12, 3\]"
    ):
        functional_of(RowsOfGrey())


def test_grey_pictures_and_clips_without_channels_get_their_axis() -> None:
    model = called(RowsOfGrey(), SIZE, SIZE)
    twin = functional_of(model, color="gray")
    assert twin.input_shape == (None, SIZE, SIZE, 1)
    given = fed(SIZE, SIZE, 1)
    np.testing.assert_allclose(twin(given), model(given[..., 0]), atol=1e-6)
    clips = keras.Input((None, SIZE, SIZE))
    flat = layers.Reshape((-1, SIZE * SIZE))(clips)
    model = keras.Model(clips, layers.Dense(3)(layers.LSTM(4)(flat)))
    twin = functional_of(model, color="gray")
    assert twin.input_shape == (None, None, SIZE, SIZE, 1)
    given = fed(4, SIZE, SIZE, 1)
    np.testing.assert_allclose(twin(given), model(given[..., 0]), atol=1e-6)


def test_a_functional_model_of_keras_own_layers_stays_itself() -> None:
    clips = keras.Input((None, SIZE, SIZE, 3))
    model = keras.Model(clips, layers.TimeDistributed(layers.GlobalAveragePooling2D())(clips))
    assert functional_of(model) is model


def test_a_layer_of_the_users_own_in_a_functional_model_is_opened() -> None:
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.LSTM(4, return_sequences=True)(layers.TimeDistributed(layers.GlobalAveragePooling2D())(clips))
    model = keras.Model(clips, layers.Dense(3)(Bahdanau(3)(x)))
    twin = functional_of(model)
    assert "Bahdanau" not in {type(call.operation).__name__ for call in trace(twin).calls}
    same(model, twin, 4, SIZE, SIZE, 3)


def test_a_layer_that_cannot_be_opened_stays_whole() -> None:
    class Stubborn(layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.map_fn(lambda row: 2 * row, x)  # takes TensorFlow's tensors only

    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(clips)
    model = keras.Model(clips, layers.Dense(3)(layers.LSTM(4)(Stubborn(name="stubborn")(x))))
    twin = functional_of(model)
    assert "Stubborn" in {type(call.operation).__name__ for call in trace(twin).calls}


def test_a_model_that_answers_otherwise_when_taken_apart_is_refused() -> None:
    class Counting(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.answer, self.calls = layers.Dense(3), 0

        def call(self, x: Any) -> Any:
            self.calls += 1
            return self.answer(ops.mean(x, axis=(1, 2, 3))) * float(self.calls)

    with pytest.raises(ExportRefused, match="taken apart, answers otherwise than it did"):
        functional_of(called(Counting(), 4, SIZE, SIZE, 3))
