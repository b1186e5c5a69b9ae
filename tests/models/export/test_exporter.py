"""A model that is not ours becomes a bundle that answers as Keras does."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from models.errors import ExportRefused
from models.export.exporter import export_model
from models.export.runtime import Runtime
from models.files.load import load_keras
from models.synthetic import synthetic_clips
from service.bundle.manifest import Input, Sampling
from service.bundle.store import Bundle, open_bundle

SMALL = Input(height=16, width=16)


def small_model(classes: int = 3, *, activation: str | None = "softmax", frames: int | None = None) -> keras.Model:
    """Clips `[B, T, 16, 16, 3]` of bytes → `[B, classes]`."""
    keras.utils.set_random_seed(3)
    clips = keras.Input((frames, 16, 16, 3))
    x = layers.TimeDistributed(layers.Conv2D(4, 3, strides=2))(layers.Rescaling(1 / 127.5, -1)(clips))
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    x = layers.LSTM(6)(x)
    return keras.Model(clips, layers.Dense(classes, activation=activation, kernel_initializer="he_normal")(x))


def export(model: keras.Model | Path, out: Path, **changes: object) -> Bundle:
    given: dict[str, object] = {"name": "small", "version": "1", "labels": ("a", "b", "c"), "input": SMALL}
    return export_model(model, out=out, **{**given, **changes})  # type: ignore[arg-type]


def served(bundle: Bundle, clips: np.ndarray) -> np.ndarray:
    """What the bundle's two graphs answer to clips `[B, T, H, W, C]` uint8."""
    encoder, head = (Runtime(bundle.file(role).read_bytes()) for role in ("encoder", "head"))
    features = encoder(clips.reshape(-1, *clips.shape[2:]))["features"]
    return head(features.reshape(*clips.shape[:2], -1))["probabilities"]


@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (2, 7), (3, 12)])
def test_the_bundle_of_a_foreign_model_answers_as_keras_does(
    foreign_model: Path, foreign_bundle: Bundle, batch: int, frames: int
) -> None:
    clips = synthetic_clips(count=batch, frames=frames, height=96, width=96, channels=3, seed=batch)
    wanted = load_keras(foreign_model)(clips.astype(np.float32), training=False)
    np.testing.assert_allclose(served(foreign_bundle, clips), wanted, atol=1e-4)


def test_the_golden_clips_are_answered_each_in_its_own_way(foreign_bundle: Bundle) -> None:
    golden = open_bundle(foreign_bundle.path).golden()
    np.testing.assert_allclose(served(foreign_bundle, golden.frames), golden.probabilities, atol=1e-4)
    assert golden.features is not None
    assert len(golden.frames) == 3
    for first in range(3):
        for second in range(first):
            assert np.abs(golden.probabilities[first] - golden.probabilities[second]).max() > 0.1
    assert (foreign_bundle.path / "golden.npz").stat().st_size < 150_000


def test_the_graphs_take_bytes_and_hold_real_recurrent_nodes(foreign_bundle: Bundle) -> None:
    encoder, head = (onnx.load(foreign_bundle.file(role)) for role in ("encoder", "head"))
    assert encoder.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    kinds = [node.op_type for node in encoder.graph.node]
    assert kinds.count("Transpose") == 1  # from NHWC, at the entry
    assert "BatchNormalization" not in kinds
    assert kinds.count("Mul") == 1  # the Rescaling and no unfolded BatchNorm
    recurrent = [node.op_type for node in head.graph.node if node.op_type in ("LSTM", "GRU", "Loop", "Scan", "If")]
    assert recurrent == ["LSTM", "GRU"]
    entry = foreign_bundle.manifest.artifacts["encoder"]
    assert (entry.inputs[0].shape, entry.outputs[0].shape) == (("N", 96, 96, 3), ("N", 1280))


def test_the_report_says_what_went_where_and_how_well_it_agrees(foreign_bundle: Bundle) -> None:
    report = json.loads((foreign_bundle.path / "report.json").read_text())["export"]
    assert [row["class"] for row in report["head_layers"]] == ["BatchNormalization", "Bidirectional", "GRU", "Dense"]
    assert report["encoder_layers"][0]["class"] == "Rescaling"
    assert report["batchnorm_folded"] == 52
    assert [(row["batch"], row["frames"]) for row in report["parity"]] == [(1, 1), (2, 7), (5, 30)]
    assert max(row["probabilities"] for row in report["parity"]) <= 1e-4
    assert report["split_against_model"] <= 1e-4


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = small_model()
    first, second = (export(model, tmp_path / name, weights="float16") for name in ("first", "second"))
    files = sorted(file.name for file in first.path.iterdir())
    assert files == ["encoder.onnx", "golden.npz", "head.onnx", "manifest.json", "report.json"]
    for name in files:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name


def test_half_precision_weights_are_those_of_the_reference(tmp_path: Path) -> None:
    full, half = (export(small_model(), tmp_path / kind, weights=kind) for kind in ("float32", "float16"))
    golden = half.golden()
    np.testing.assert_allclose(served(half, golden.frames), golden.probabilities, atol=1e-6)
    assert half.manifest.artifacts["head"].weights == "float16"
    shift = json.loads((half.path / "report.json").read_text())["export"]["rounding_shift"]
    assert 0 < shift < 1e-2
    assert np.abs(served(full, golden.frames) - golden.probabilities).max() > 0


def test_a_single_sigmoid_becomes_two_classes(tmp_path: Path) -> None:
    model = small_model(1, activation="sigmoid")
    bundle = export(model, tmp_path / "two", labels=("no", "yes"))
    golden = bundle.golden()
    p = np.asarray(model(golden.frames.astype(np.float32), training=False))
    np.testing.assert_allclose(served(bundle, golden.frames), np.concatenate([1 - p, p], axis=1), atol=1e-6)
    assert not bundle.manifest.network.multi_label


def test_sigmoids_of_several_classes_are_a_multi_label_bundle(tmp_path: Path) -> None:
    bundle = export(small_model(activation="sigmoid"), tmp_path / "several")
    assert bundle.manifest.network.multi_label
    assert bundle.manifest.activation == "sigmoid"


def test_plain_scores_are_refused_until_an_activation_is_named(tmp_path: Path) -> None:
    model = small_model(activation=None)
    with pytest.raises(ExportRefused, match=r"ends in plain scores, .*--activation softmax"):
        export(model, tmp_path / "scores")
    bundle = export(model, tmp_path / "softmax", activation="softmax")
    golden = bundle.golden()
    wanted = keras.ops.softmax(model(golden.frames.astype(np.float32), training=False))
    np.testing.assert_allclose(golden.probabilities, wanted, atol=1e-6)


def bounded(end: object) -> keras.Model:
    """One score that lies near 0.5 whatever the frames are, through `end`."""
    keras.utils.set_random_seed(3)
    frame = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, strides=2)(layers.Rescaling(1 / 255)(frame)))
    dense = layers.Dense(1, kernel_initializer=keras.initializers.RandomNormal(0, 0.2), bias_initializer="ones")
    return keras.Model(frame, end(0.5 * dense(x)))  # type: ignore[operator]


def test_scores_that_lie_between_0_and_1_by_chance_are_no_probabilities_until_it_is_said(tmp_path: Path) -> None:
    model = bounded(layers.Identity())
    with pytest.raises(ExportRefused, match=r"ends in plain scores, .* or --activation none where its answers are"):
        export(model, tmp_path / "scores", labels=("a", "b"))
    bundle = export(model, tmp_path / "said", labels=("a", "b"), activation="none")
    rows = bundle.golden().probabilities
    assert ((rows >= 0) & (rows <= 1)).all(), "by chance: else this tests nothing"


def test_none_is_taken_at_its_word_only_where_the_answers_are_probabilities(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match=r"are no probabilities: those lie in 0…1 and add up to 1"):
        export(small_model(activation=None), tmp_path / "out", activation="none")


@pytest.mark.parametrize("activation", [None, "none"])
def test_a_tanh_is_told_its_range_and_offered_no_softmax_on_top(tmp_path: Path, activation: str | None) -> None:
    with pytest.raises(ExportRefused, match=r"ends in tanh, .* lie in −1…1 .* as \(x \+ 1\) / 2") as refused:
        export(bounded(layers.Activation("tanh")), tmp_path / "out", labels=("a", "b"), activation=activation)
    assert "--activation softmax" not in str(refused.value)


def test_an_activation_on_top_of_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="ends in softmax already"):
        export(small_model(), tmp_path / "twice", activation="sigmoid")
    assert export(small_model(), tmp_path / "same", activation="softmax").manifest.activation == "softmax"


def test_a_label_too_few_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="tells 3 classes apart, 2 labels"):
        export(small_model(), tmp_path / "few", labels=("a", "b"))


def test_an_image_classifier_averages_over_the_frames_of_a_clip(tmp_path: Path) -> None:
    keras.utils.set_random_seed(5)
    image = keras.Input((16, 16, 3))
    x = layers.BatchNormalization()(layers.Conv2D(6, 3, strides=2, use_bias=False)(layers.Rescaling(1 / 255)(image)))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = keras.Model(
        image, layers.Dense(3, activation="softmax", kernel_initializer="he_normal")(layers.Dropout(0.5)(x))
    )
    bundle = export(model, tmp_path / "image")
    clips = synthetic_clips(count=2, frames=5, height=16, width=16, channels=3, seed=9)
    rows = np.asarray(model(clips.reshape(-1, 16, 16, 3).astype(np.float32), training=False)).reshape(2, 5, 3)
    np.testing.assert_allclose(served(bundle, clips), rows.mean(axis=1), atol=1e-6)
    assert bundle.manifest.tasks == ("image", "video")


def test_a_head_that_needs_its_number_of_frames_says_so(tmp_path: Path) -> None:
    keras.utils.set_random_seed(6)
    clips = keras.Input((4, 16, 16, 3))
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(layers.TimeDistributed(layers.Conv2D(4, 3))(clips))
    x = layers.Rescaling(1 / 255)(layers.Flatten()(x))
    model = keras.Model(clips, layers.Dense(3, activation="softmax")(x))
    with pytest.raises(ExportRefused, match="takes 4 frames and no other"):
        export(model, tmp_path / "fixed", sampling=Sampling(frames=16))
    bundle = export(model, tmp_path / "fixed", sampling=Sampling(frames=4, short_clip="repeat"))
    assert bundle.manifest.network.static_frames == 4
    assert bundle.manifest.tasks == ("video",)
    golden = bundle.golden()
    np.testing.assert_allclose(model(golden.frames.astype(np.float32), training=False), golden.probabilities, atol=1e-5)


def test_a_lambda_in_the_file_is_refused_and_never_run(tmp_path: Path) -> None:
    clips = keras.Input((None, 16, 16, 3))
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(clips)
    x = layers.Lambda(lambda values: values.mean(axis=1), output_shape=(3,))(x)
    file = tmp_path / "lambda.keras"
    keras.Model(clips, x).save(file)
    with pytest.raises(ExportRefused, match="Lambda"):
        export(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
