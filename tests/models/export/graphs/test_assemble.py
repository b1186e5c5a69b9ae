"""Translated and written parts of a model are one graph: ConvLSTM in every setting, cells of the user's own, kernels that pass as inputs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers, ops
from onnx import numpy_helper

from models.errors import ExportRefused
from models.export.graphs.assemble import assemble
from models.export.graphs.encoder import encoder_onnx
from models.export.graphs.head_graph import head_graph
from models.export.runtime import Runtime

SIZE, FRAMES = 9, 4
pytestmark = pytest.mark.filterwarnings("ignore:.*retracing")


def graph_of(x: Any, clips: Any) -> tuple[onnx.ModelProto, keras.Model]:
    """The graph of the mean of `x` over all but its batch and channels, and the model."""
    rows = layers.Flatten()(x)
    model = keras.Model(clips, rows)
    proto = assemble(
        model, name="clip", entry=("clips", ("B", *clips.shape[1:])), gives={"rows": ("B", int(rows.shape[-1]))}
    )
    return proto, model


def same(proto: onnx.ModelProto, model: keras.Model) -> None:
    assert not {"Loop", "Scan", "If"} & {node.op_type for node in proto.graph.node}
    for count in (1, 3):
        clips = np.random.default_rng(count).integers(0, 256, (count, *model.input_shape[1:]), dtype=np.uint8)
        wanted = np.asarray(model(clips.astype(np.float32), training=False))
        assert np.ptp(wanted) > 0.01
        np.testing.assert_allclose(Runtime(proto)(clips)["rows"], wanted, atol=2e-6 * max(1.0, np.abs(wanted).max()))


SETTINGS: dict[str, dict[str, Any]] = {
    "same": {"padding": "same", "kernel_size": (2, 3)},
    "strided": {"strides": (2, 1), "padding": "same"},
    "valid": {"strides": 2, "kernel_size": (3, 2)},
    "dilated": {"dilation_rate": 2, "padding": "same"},
    "backwards": {"go_backwards": True, "return_sequences": True},
    "other activations": {"activation": "relu", "recurrent_activation": "hard_sigmoid", "use_bias": False},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_convlstm_is_written_step_by_step(name: str) -> None:
    keras.utils.set_random_seed(3)
    clips = keras.Input((FRAMES, SIZE, SIZE, 3))
    layer = layers.ConvLSTM2D(**{"filters": 3, "kernel_size": 3, "bias_initializer": "random_normal", **SETTINGS[name]})
    proto, model = graph_of(layer(clips / 255.0), clips)
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == FRAMES  # one of all frames, and the state's of each step but the first
    same(proto, model)


def test_convlstm_over_one_dimension_and_over_a_single_frame() -> None:
    clips = keras.Input((FRAMES, SIZE, 3))
    same(*graph_of(layers.ConvLSTM1D(3, 3)(clips / 255.0), clips))
    frame = keras.Input((1, SIZE, SIZE, 3))
    same(*graph_of(layers.ConvLSTM2D(3, 3, return_sequences=True)(frame / 255.0), frame))


def test_a_convlstm_hands_its_states_to_the_next() -> None:
    clips = keras.Input((FRAMES, SIZE, SIZE, 3))
    x, hidden, carry = layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True, return_state=True)(clips / 255.0)
    decoded = layers.ConvLSTM2D(3, 3, padding="same")(x, initial_state=[hidden, carry])
    same(*graph_of(layers.Concatenate()([decoded, carry]), clips))


@pytest.mark.parametrize("merge", ["concat", "sum", "mul"])
def test_a_convlstm_both_ways_is_two(merge: str) -> None:
    clips = keras.Input((FRAMES, SIZE, SIZE, 3))
    layer = layers.Bidirectional(layers.ConvLSTM2D(2, 3, return_sequences=True), merge_mode=merge)
    same(*graph_of(layers.MaxPooling3D((1, 2, 2))(20 * layer(clips / 255.0)), clips))


def test_a_convlstm_that_cannot_be_written_is_refused_by_name() -> None:
    clips = keras.Input((None, SIZE, SIZE, 3))
    with pytest.raises(ExportRefused, match=r"layer 'memory' \(ConvLSTM2D\) .*fixed number of frames"):
        graph_of(layers.GlobalAveragePooling2D()(layers.ConvLSTM2D(2, 3, name="memory")(clips)), clips)
    states = keras.Input((FRAMES, SIZE, SIZE, 3), batch_size=2)
    with pytest.raises(ExportRefused, match=r"layer 'keeps' \(ConvLSTM2D\) has stateful=True"):
        graph_of(layers.ConvLSTM2D(2, 3, stateful=True, name="keeps")(states), states)


@keras.saving.register_keras_serializable("tests")
class Leaky(layers.Layer):
    """A recurrent cell that Keras does not have."""

    def __init__(self, units: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.units = self.state_size = units

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(shape=(input_shape[-1] + self.units, self.units), name="kernel")

    def call(self, inputs: Any, states: Any) -> Any:
        fresh = ops.tanh(ops.matmul(ops.concatenate([inputs, states[0]], axis=-1), self.kernel))
        state = 0.5 * states[0] + 0.5 * fresh
        return state, [state]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def test_a_cell_of_the_users_own_is_unrolled() -> None:
    clips = keras.Input((FRAMES, SIZE, SIZE, 3))
    rows = layers.TimeDistributed(layers.Flatten())(clips / 255.0)
    same(*graph_of(layers.Bidirectional(layers.RNN(Leaky(4), return_sequences=True))(rows), clips))


def test_convolutions_between_and_behind_recurrent_layers_are_translated() -> None:
    clips = keras.Input((SIZE, SIZE, 3))
    rows = layers.Reshape((SIZE, SIZE * 3))(clips / 255.0)
    x = layers.Conv1D(6, 3, activation="gelu")(layers.GRU(6, return_sequences=True)(rows))
    x = layers.SeparableConv1D(5, 2)(layers.LSTM(5, return_sequences=True)(layers.UpSampling1D()(x)))
    proto, model = graph_of(x, clips)
    assert {"GRU", "LSTM", "Conv"} <= {node.op_type for node in proto.graph.node}
    same(proto, model)


def test_time_that_was_folded_stays_folded_through_a_chain_of_layers() -> None:
    clips = keras.Input((FRAMES, SIZE, SIZE, 3))
    x = clips / 255.0
    for layer in (layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()):
        x = layers.TimeDistributed(layer)(x)
    proto, model = graph_of(x, clips)
    assert [node.op_type for node in proto.graph.node].count("Reshape") <= 3
    same(proto, model)


def test_large_kernels_are_constants_of_the_graph_as_small_ones_are() -> None:
    frames = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(64, 3, padding="same", name="small")(frames / 255.0)
    x = layers.Conv2D(128, 3, padding="same", name="large")(x)
    x = layers.Dense(600, name="wide")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(frames, x)
    graph = encoder_onnx(model)
    assert [value.name for value in graph.graph.input] == ["frames"]
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    kernel = np.asarray(model.get_layer("large").kernel)
    np.testing.assert_array_equal(weights["large/Conv/1"], kernel.transpose(3, 2, 0, 1))
    assert [node.op_type for node in graph.graph.node].count("Transpose") == 1
    given = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    np.testing.assert_allclose(Runtime(graph)(given)["features"], model(given.astype(np.float32)), atol=1e-5)


def test_a_head_with_a_layer_that_no_writer_knows_has_its_real_nodes_and_the_layer_translated() -> None:
    class Logarithm(layers.Layer):
        def call(self, x: Any) -> Any:
            return ops.log(1.0 + ops.abs(ops.cumsum(x, axis=-1)))

    features = keras.Input((None, 6))
    x = Logarithm()(layers.Bidirectional(layers.LSTM(4, return_sequences=True))(features))
    rows = layers.Dense(3, activation="softmax", kernel_initializer="he_normal")(layers.GRU(5)(x))
    head = keras.Model(features, {"probabilities": rows})
    graph = head_graph(head)
    kinds = {node.op_type for node in graph.graph.node}
    assert {"LSTM", "GRU"} <= kinds
    assert not {"Loop", "Scan", "If"} & kinds
    for shape in ((1, 1, 6), (2, 7, 6), (5, 3, 6)):
        given = np.random.default_rng(1).normal(0, 2, shape).astype(np.float32)
        np.testing.assert_allclose(Runtime(graph)(given)["probabilities"], head(given)["probabilities"], atol=1e-6)
