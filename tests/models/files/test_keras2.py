"""What Keras 2 wrote becomes a Keras 3 model that answers as Keras 2 did."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from models.errors import ExportRefused
from models.export.exporter import keras_networks
from models.export.model.trace import trace
from models.export.runtime import Runtime
from models.files.keras2 import load_keras2
from models.files.keras2_model import Builder
from models.files.kind import read_config
from models.files.load import load_keras
from models.files.through_tf_keras import FromKeras2, compare
from service.bundle.manifest import Input


def held_against(file: Path, model: keras.Model) -> float:
    with np.load(file) as arrays:
        answers = np.asarray(model(arrays["pixels"], training=False))
        assert np.ptp(arrays["answers"], axis=0).max() > 1e-3, "answers that do not differ would prove nothing"
        return float(np.abs(answers - arrays["answers"]).max())


@pytest.mark.parametrize("name", ["clips", "attention", "lrcn", "hard"])
def test_an_h5_of_keras_2_answers_as_it_did(keras2: Path, name: str) -> None:
    model = Builder().build(json.loads(h5py.File(keras2 / f"{name}.h5").attrs["model_config"]))
    model.load_weights(keras2 / f"{name}.h5")
    assert held_against(keras2 / f"{name}.npz", model) <= 1e-6


def test_the_layers_of_cudnn_are_lstm_and_gru_and_answer_as_they_did(keras2: Path) -> None:
    model = load_keras(keras2 / "cudnn.h5")
    assert {type(layer).__name__ for layer in model._flatten_layers()} >= {"LSTM", "GRU"}
    assert held_against(keras2 / "cudnn.npz", model) <= 1e-6
    networks = keras_networks(model, input=Input(height=8, width=8))
    with np.load(keras2 / "cudnn.npz") as arrays:
        frames, wanted = arrays["pixels"].astype(np.uint8), arrays["answers"]
    features = Runtime(networks.graphs["encoder"])(frames.reshape(-1, 8, 8, 3))["features"].reshape(2, 4, -1)
    np.testing.assert_allclose(Runtime(networks.graphs["head"])(features)["probabilities"], wanted, atol=1e-5)


def test_the_hard_sigmoid_of_keras_2_is_exported_as_it_was(keras2: Path) -> None:
    networks = keras_networks(load_keras(keras2 / "hard.h5"), input=Input(height=8, width=8))
    with np.load(keras2 / "hard.npz") as arrays:
        clips, wanted = arrays["pixels"].astype(np.uint8), arrays["answers"]
    found = Runtime(networks.graphs["clip"])(clips)["probabilities"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_saved_model_folder_goes_through_tf_keras(keras2: Path) -> None:
    assert held_against(keras2 / "attention.npz", load_keras(keras2 / "attention")) <= 1e-6


def test_a_keras_archive_of_keras_2_goes_through_tf_keras(keras2: Path) -> None:
    assert held_against(keras2 / "clips.npz", load_keras(keras2 / "clips.keras")) <= 1e-6


def test_weights_that_keras_3_would_place_otherwise_are_noticed(keras2: Path) -> None:
    """The weights of one layer are turned round, as if they had been given to another."""
    file = keras2 / "lrcn.h5"
    with np.load(keras2 / "lrcn.npz") as arrays:
        found = FromKeras2(file, (([arrays["pixels"]], [arrays["answers"]]),))
    config = read_config(file, "keras2_h5")
    assert config is not None
    model = load_keras2(file, "keras2_h5", config, custom={"Unused": keras.layers.Layer})
    assert compare(model, found, path=file) <= 1e-6
    kernel = model.layers[-1].kernel
    kernel.assign(kernel[:, ::-1])
    with pytest.raises(ExportRefused, match=r"lrcn.h5 answers otherwise in Keras 3 than in Keras 2"):
        compare(model, found, path=file)


def test_operations_of_tensorflow_become_operations_and_not_layers_of_ours(keras2: Path) -> None:
    config = json.loads(h5py.File(keras2 / "attention.h5").attrs["model_config"])
    kinds = [type(call.operation).__name__ for call in trace(Builder().build(config)).calls]
    assert kinds[:2] == ["Take", "Add"]
    assert "Mean" in kinds
    assert not {kind for kind in kinds if "Lambda" in kind}


@pytest.mark.parametrize(
    ("name", "saying"),
    [
        ("lambda.h5", r"holds the Lambda layer 'to_unit'.*Rescaling"),
        ("lambda", r"holds the Lambda layer 'to_unit'.*keras.ops, which carry no code of their own"),
        ("resize.h5", r"layer 'tf.image.resize' is TensorFlow's tf.image.resize"),
        (
            "subclassed",
            r"is a subclassed model \(Subclassed\), whose layers only its code knows; rebuild it as a functional",
        ),
        ("plain", r"a SavedModel without the layers of a Keras model.*--from-onnx"),
        ("checkpoint", r"a TensorFlow checkpoint"),
    ],
)
def test_what_cannot_be_taken_in_is_refused_by_name(keras2: Path, name: str, saying: str) -> None:
    with pytest.raises(ExportRefused, match=saying):
        load_keras(keras2 / name)


def entry(class_name: str, **config: object) -> dict[str, object]:
    return {"class_name": class_name, "config": {"name": "it", **config}}


@pytest.mark.parametrize(
    ("layer", "saying"),
    [
        (
            entry("CuDNNLSTM", units=3),
            "layer 'it' is of the class CuDNNLSTM, which Keras 3 does not have.*--model-code",
        ),
        (entry("LSTM", units=3, time_major=True), "layer 'it' \\(LSTM\\) has the setting time_major = True"),
        (entry("DepthwiseConv2D", kernel_size=3, groups=2), "has the setting groups = 2"),
        (entry("Dense", units=3, novelty=1), "has the setting novelty = 1"),
        (entry("Dense", units="three"), "layer 'it' \\(Dense\\) of Keras 2 cannot be made in Keras 3"),
    ],
)
def test_a_setting_that_keras_3_lost_is_refused_where_it_means_something(layer: dict[str, object], saying: str) -> None:
    with pytest.raises(ExportRefused, match=saying):
        Builder().build(layer)


def test_a_setting_that_keras_3_lost_is_dropped_where_it_means_nothing() -> None:
    made = Builder().build(
        entry("LSTM", units=3, time_major=False, implementation=2, unit_forget_bias=True, dtype="float32")
    )
    assert (made.units, made.name) == (3, "it")
    leaky = Builder().build(entry("LeakyReLU", alpha=0.25))
    assert leaky.negative_slope == 0.25


def test_without_tf_keras_an_h5_is_read_all_the_same_and_a_folder_names_the_remedy(
    keras2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util  # noqa: PLC0415 -- the environment is made another here

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tf_keras" else found(name, *rest)
    )
    assert held_against(keras2 / "lrcn.npz", load_keras(keras2 / "lrcn.h5")) <= 1e-6
    with pytest.raises(
        ExportRefused, match=r"install the tf-keras of your TensorFlow \(pip install --no-deps tf-keras==\d\.\d+\.\*\)"
    ):
        load_keras(keras2 / "attention")
