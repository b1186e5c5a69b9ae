"""Models that do not split become one clip network that answers as they do, at every shape and in every engine's terms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from models.errors import ExportRefused
from models.export.clip.networks import clip_networks
from models.export.gate import build_gate
from models.export.golden import golden_clips
from models.export.networks import Networks
from models.export.normalization import Normalization
from models.export.runtime import Runtime
from models.synthetic import synthetic_clips
from service.bundle.manifest import Input
from tests.models.export.decisive import decisive

SIZE = 16
Answer = tuple[Any, Any]  # the layer that answers, and its output
# Keras and its TensorFlow functions: unrelated to what is exported.
pytestmark = pytest.mark.filterwarnings("ignore:.*retracing", "ignore:.*using a softmax over axis")


def dense(x: Any, *, classes: int = 4, activation: str | None = "softmax") -> Answer:
    layer = layers.Dense(classes, activation=activation)
    return layer, layer(x)


def c3d(x: Any) -> Answer:
    x = layers.MaxPooling3D((1, 2, 2))(layers.Conv3D(6, 3, padding="same", activation="relu")(x))
    x = layers.BatchNormalization()(layers.Conv3D(8, 3, padding="same", use_bias=False)(x))
    x = layers.MaxPooling3D(2)(layers.ReLU()(x))
    return dense(layers.Dropout(0.5)(layers.Dense(8, activation="relu")(layers.Flatten()(x))))


def two_plus_one(x: Any) -> Answer:
    for filters in (4, 6):
        x = layers.Conv3D(filters, (1, 3, 3), padding="same", strides=(1, 2, 2))(x)
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv3D(filters, (3, 1, 1), padding="same")(x)))
    return dense(layers.GlobalAveragePooling3D()(x))


def resnet(x: Any) -> Answer:
    x = layers.Conv3D(6, (3, 5, 5), strides=(1, 2, 2), padding="same")(x)
    y = layers.Conv3D(6, 3, padding="same", activation="relu")(x)
    y = layers.BatchNormalization()(layers.Conv3D(6, 3, strides=2, padding="same")(y))
    x = layers.ReLU()(layers.Add()([y, layers.Conv3D(6, 1, strides=2)(x)]))
    return dense(layers.GlobalAveragePooling3D()(layers.AveragePooling3D((2, 1, 1), padding="same")(x)))


def stacked_convlstm(x: Any) -> Answer:
    x = layers.ConvLSTM2D(4, 3, padding="same", return_sequences=True, dropout=0.2)(x)
    x = layers.MaxPooling3D((1, 2, 2))(layers.BatchNormalization()(x))
    x = layers.ConvLSTM2D(4, 3, strides=2, recurrent_activation="hard_sigmoid")(x)
    return dense(layers.Flatten()(x))


def convlstm_over_cnn(x: Any) -> Answer:
    x = layers.TimeDistributed(layers.Conv2D(4, 3, strides=2))(x)
    x = layers.TimeDistributed(layers.BatchNormalization())(x)
    x = layers.ConvLSTM2D(4, 3, go_backwards=True, return_sequences=True)(x)
    return dense(layers.LSTM(6)(layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)))


def both_ways(x: Any) -> Answer:
    x = layers.Bidirectional(layers.ConvLSTM2D(3, 3, return_sequences=True))(x)
    x = layers.Bidirectional(layers.ConvLSTM2D(3, 3, strides=2), merge_mode="ave")(x)
    return dense(layers.GlobalMaxPooling2D()(x))


def conv3d_gru(x: Any) -> Answer:
    x = layers.MaxPooling3D((2, 2, 2))(layers.Conv3D(6, 3, activation="relu")(x))
    x = layers.Reshape((2, -1))(x)
    return dense(layers.GRU(6)(layers.Bidirectional(layers.LSTM(5, return_sequences=True))(x)))


MODELS: dict[str, Callable[[Any], Answer]] = {
    made.__name__: made
    for made in (c3d, two_plus_one, resnet, stacked_convlstm, convlstm_over_cnn, both_ways, conv3d_gru)
}


def clips_model(made: Callable[[Any], Answer], *, frames: int | None = 6) -> keras.Model:
    keras.utils.set_random_seed(7)
    clips = keras.Input((frames, SIZE, SIZE, 3))
    answers, x = made(layers.Rescaling(1 / 127.5, -1)(clips))
    model = keras.Model(clips, x)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(np.linspace(-0.1, 0.1, layer.moving_mean.shape[0]))
            layer.moving_variance.assign(np.linspace(0.5, 2, layer.moving_mean.shape[0]))
    return decisive(model, answers=answers)


def export(model: keras.Model, **changes: Any) -> Networks:
    color = "gray" if model.input_shape[-1] == 1 else "rgb"
    asked = {"input": Input(height=SIZE, width=SIZE, color=color), "normalization": Normalization(color=color)}
    return clip_networks(model, **{**asked, **changes})


@functools.cache
def exported(name: str) -> tuple[keras.Model, Networks]:
    model = clips_model(MODELS[name])
    return model, export(model)


def run(networks: Networks, clips: np.ndarray) -> dict[str, np.ndarray]:
    return Runtime(networks.graphs["clip"])(clips)


def some_clips(*, count: int, frames: int, channels: int = 3) -> np.ndarray:
    return synthetic_clips(count=count, frames=frames, height=SIZE, width=SIZE, channels=channels, seed=4)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_whose_frames_meet_early_is_one_graph_that_answers_as_it_does(name: str) -> None:
    model, networks = exported(name)
    assert list(networks.graphs) == ["clip"]
    assert (networks.network.kind, networks.network.static_frames, networks.classes) == ("clip", 6, 4)
    assert not {"Loop", "Scan", "If"} & {node.op_type for node in networks.graphs["clip"].graph.node}
    assert [(row["batch"], row["frames"]) for row in networks.report["parity"]] == [(1, 6), (2, 6), (5, 6)]
    for count in (1, 2, 5):
        clips = some_clips(count=count, frames=6)
        found = run(networks, clips)["probabilities"]
        np.testing.assert_allclose(found, model(clips.astype(np.float32), training=False), atol=1e-5)
    assert golden_clips(networks.reference, frames=6, seed=0)[1] > 0.1


@pytest.mark.parametrize(
    ("name", "half"), [("resnet", False), ("resnet", True), ("convlstm_over_cnn", False), ("conv3d_gru", True)]
)
def test_tensorrt_builds_clip_networks(name: str, half: bool) -> None:
    _, networks = exported(name)
    assert build_gate(networks.graphs["clip"], profile=(1, 2, 4), half=half).plan_bytes > 0


def test_the_same_model_gives_the_same_bytes() -> None:
    model, networks = exported("convlstm_over_cnn")
    again = export(model).graphs["clip"]
    assert again.SerializeToString(deterministic=True) == networks.graphs["clip"].SerializeToString(deterministic=True)


def test_batchnorm_of_3d_convolutions_and_inside_time_distributed_is_folded() -> None:
    assert exported("c3d")[1].report["batchnorm_folded"] == 1
    assert exported("convlstm_over_cnn")[1].report["batchnorm_folded"] == 1


def test_any_number_of_frames_stays_free_where_the_graph_is_the_model_at_each() -> None:
    networks = export(clips_model(two_plus_one, frames=None))
    assert networks.network.static_frames is None
    assert [(row["batch"], row["frames"]) for row in networks.report["parity"]] == [(1, 1), (2, 7), (3, 2)]
    assert build_gate(networks.graphs["clip"], profile=(1, 2, 4)).plan_bytes > 0


def test_a_number_of_frames_is_fixed_where_others_fail_and_the_report_says_why() -> None:
    def valid(x: Any) -> Answer:
        return dense(layers.GlobalAveragePooling3D()(layers.Conv3D(6, 3, activation="relu")(x)))

    networks = export(clips_model(valid, frames=None), frames=5)
    assert networks.network.static_frames == 5
    assert "Computed output size would be negative" in networks.report["static_frames_because"]


def test_a_convlstm_without_a_length_gets_the_usual_one_and_the_report_names_it() -> None:
    model = clips_model(lambda x: dense(layers.Flatten()(layers.ConvLSTM2D(3, 3, name="memory")(x))), frames=None)
    networks = export(model, frames=3)
    assert networks.network.static_frames == 3
    assert networks.report["static_frames_because"] == "layer 'memory' (ConvLSTM2D) is written out step by step"


@pytest.mark.parametrize("preprocess", ["caffe", "torch"])
def test_normalisation_outside_the_model_moves_into_the_graph(preprocess: str) -> None:
    keras.utils.set_random_seed(3)
    clips = keras.Input((4, SIZE, SIZE, 3))
    answers, x = dense(layers.GlobalAveragePooling3D()(layers.Conv3D(5, 3, activation="relu")(clips)))
    normalization = Normalization.parse(preprocess)
    bytes_ = some_clips(count=8, frames=4)
    model = decisive(keras.Model(clips, x), answers=answers, fed=normalization.apply(bytes_))
    networks = export(model, normalization=normalization)
    fed = keras.applications.imagenet_utils.preprocess_input(bytes_.astype(np.float32).copy(), mode=preprocess)
    found = run(networks, bytes_)["probabilities"]
    np.testing.assert_allclose(found, model(fed), atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0.1


@pytest.mark.parametrize(
    ("steps", "reduced"), [("mean", lambda rows: rows.mean(axis=1)), ("last", lambda rows: rows[:, -1])]
)
def test_answers_for_each_step_are_positions_beside_what_answers_for_the_clip(steps: Any, reduced: Any) -> None:
    def each_step(x: Any) -> Answer:
        x = layers.MaxPooling3D((2, 2, 2))(layers.Conv3D(4, 3, padding="same")(x))
        return dense(layers.LSTM(6, return_sequences=True)(layers.TimeDistributed(layers.Flatten())(x)))

    model = clips_model(each_step)
    networks = export(model, steps=steps)
    assert networks.network.positions
    clips = some_clips(count=3, frames=6)
    found, wanted = run(networks, clips), np.asarray(model(clips.astype(np.float32)))
    assert list(found) == ["probabilities", "positions"]
    assert found["positions"].shape == (3, 3, 4)  # half as many steps as frames
    np.testing.assert_allclose(found["positions"], wanted, atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], reduced(wanted), atol=1e-5)


def test_answers_for_each_step_are_refused_until_it_is_said_which_answers() -> None:
    model = clips_model(
        lambda x: dense(layers.TimeDistributed(layers.Flatten())(layers.ConvLSTM2D(2, 3, return_sequences=True)(x)))
    )
    with pytest.raises(
        ExportRefused, match=r"\[None, 6, 4\], an answer for each step; .* --steps mean or --steps last"
    ):
        export(model)


def test_the_weights_of_the_frames_are_a_second_output() -> None:
    keras.utils.set_random_seed(1)
    clips = keras.Input((5, SIZE, SIZE, 3))
    x = layers.ConvLSTM2D(3, 3, return_sequences=True)(layers.Rescaling(1 / 255)(clips))
    x = layers.TimeDistributed(layers.Flatten())(x)
    weights = layers.Softmax(axis=1, name="attention")(20 * layers.Dense(1)(x))
    answers, rows = dense(layers.Flatten()(layers.Dot(axes=1)([weights, x])))
    model = decisive(keras.Model(clips, [rows, weights]), answers=answers)
    networks = export(model)
    assert networks.network.attention
    bytes_ = some_clips(count=2, frames=5)
    found, wanted = run(networks, bytes_), model(bytes_.astype(np.float32))
    np.testing.assert_allclose(found["attention"], np.asarray(wanted[1])[..., 0], atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], wanted[0], atol=1e-5)
    assert np.ptp(found["attention"]) > 0.01


def test_one_sigmoid_unit_is_two_classes_and_several_are_labels_of_their_own() -> None:
    def pooled(classes: int) -> Callable[[Any], Answer]:
        return lambda x: dense(
            layers.GlobalAveragePooling3D()(layers.Conv3D(5, 3)(x)), classes=classes, activation="sigmoid"
        )

    clips = some_clips(count=3, frames=6)
    one, several = clips_model(pooled(1)), clips_model(pooled(3))
    networks = export(one)
    assert (networks.classes, networks.network.multi_label) == (2, False)
    p = np.asarray(one(clips.astype(np.float32)))
    np.testing.assert_allclose(run(networks, clips)["probabilities"], np.concatenate([1 - p, p], axis=1), atol=1e-5)
    assert export(several).network.multi_label


def test_an_activation_that_the_model_lacks_is_added() -> None:
    model = clips_model(lambda x: dense(layers.GlobalAveragePooling3D()(layers.Conv3D(5, 3)(x)), activation=None))
    clips = some_clips(count=3, frames=6)
    found = run(export(model, activation="softmax"), clips)["probabilities"]
    np.testing.assert_allclose(found, ops.softmax(model(clips.astype(np.float32))), atol=1e-5)


def test_weights_stored_in_half_are_those_of_the_reference() -> None:
    networks = export(clips_model(c3d), weights="float16")
    kinds = {tensor.name: tensor.data_type for tensor in networks.graphs["clip"].graph.initializer}
    assert any(name.endswith("/half") for name in kinds)
    assert 0 < networks.report["rounding_shift"] < 0.1
    clips = some_clips(count=3, frames=6)
    np.testing.assert_allclose(
        run(networks, clips)["probabilities"], networks.reference.answers(clips).probabilities, atol=1e-5
    )


@pytest.mark.parametrize("recurrent", [layers.LSTM, layers.GRU])
def test_a_picture_read_patch_by_patch_is_averaged_over_the_frames_of_a_clip(recurrent: Any) -> None:
    keras.utils.set_random_seed(5)
    picture = keras.Input((SIZE, SIZE, 1))
    patches = layers.Reshape((16, 8))(layers.Conv2D(8, 4, strides=4)(layers.Rescaling(1 / 255)(picture)))
    answers, rows = dense(layers.Bidirectional(recurrent(6, return_sequences=True))(patches))
    model = decisive(keras.Model(picture, rows), answers=answers)
    networks = export(model, steps="mean")
    assert (networks.source, networks.network.static_frames) == ("image", None)
    for count, length in ((1, 1), (2, 5)):
        clips = some_clips(count=count, frames=length, channels=1)
        found = run(networks, clips)
        wanted = np.asarray(model(clips.reshape(-1, SIZE, SIZE, 1).astype(np.float32)))
        wanted = wanted.reshape(count, length, 16, 4).mean(axis=1)
        np.testing.assert_allclose(found["positions"], wanted, atol=1e-5)
        np.testing.assert_allclose(found["probabilities"], wanted.mean(axis=1), atol=1e-5)


def test_an_attention_over_the_rows_of_a_picture_is_left_out_and_the_report_says_so() -> None:
    picture = keras.Input((SIZE, SIZE, 1))
    rows = layers.GRU(6, return_sequences=True)(layers.Reshape((SIZE, SIZE))(layers.Rescaling(1 / 255)(picture)))
    summary, scores = layers.Attention()([rows, rows], return_attention_scores=True)
    _, answer = dense(layers.GlobalAveragePooling1D()(summary))
    networks = export(keras.Model(picture, [answer, ops.mean(scores, axis=1)]))
    assert [output.name for output in networks.graphs["clip"].graph.output] == ["probabilities"]
    assert networks.report["notes"] == ["the attention [None, 16] is left out: it does not weigh the frames of a clip"]


def test_a_reference_that_is_not_the_model_is_refused() -> None:
    @keras.saving.register_keras_serializable("tests")
    class Forgetful(layers.Layer):
        """Its get_config loses `shift`, so that a copy of it is another layer."""

        def __init__(self, shift: float = 0.0, **settings: Any) -> None:
            super().__init__(**settings)
            self.shift = shift

        def call(self, inputs: Any) -> Any:
            return inputs + self.shift

        def get_config(self) -> dict[str, Any]:
            return {"name": self.name}

    model = clips_model(
        lambda x: dense(layers.GlobalAveragePooling3D()(layers.ReLU()(Forgetful(0.2)(layers.Conv3D(6, 3)(x)))))
    )
    with pytest.raises(ExportRefused, match=r"differs from the model itself by 0\.\d+, the limit is 0.0001"):
        export(model)
