"""A model may come as two files of Keras, or as a graph of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import onnx
from keras import layers

from service.bundle.store import open_bundle
from tests.models.export_command.conftest import export
from tests.models.export_command.networks import answers, clips_of, cnn


def test_a_cnn_and_an_rnn_of_two_files_become_one_bundle(given: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    encoder, features = cnn(), keras.Input((None, 6))
    head = keras.Model(
        features, layers.Dense(3, activation="softmax", kernel_initializer="he_normal")(layers.GRU(8)(features))
    )
    encoder.save(tmp_path / "cnn.keras")
    head.save(tmp_path / "rnn.keras")
    arguments = ("--encoder", tmp_path / "cnn.keras", "--head", tmp_path / "rnn.keras", "--preprocess", "0/255")
    export(given, tmp_path / "out", *arguments)
    pixels = clips_of()
    rows = np.asarray(encoder(pixels.reshape(-1, 16, 16, 3).astype(np.float32) / 255)).reshape(2, 5, 6)
    np.testing.assert_allclose(answers(open_bundle(tmp_path / "out"), pixels), np.asarray(head(rows)), atol=1e-5)
    error = export(given, tmp_path / "other", tmp_path / "rnn.keras", code=1).stderr
    assert "features and no pixels; give it with --head" in error


def graph(file: Path) -> np.ndarray:
    """Saves frames [N, 3, 16, 16] → three scores, a mean over places and a product; gives the weights."""
    weights = np.random.default_rng(2).normal(0, 6, (3, 3)).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    nodes: Sequence[onnx.NodeProto] = [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        onnx.helper.make_node("Flatten", ["p"], ["f"]),
        onnx.helper.make_node("MatMul", ["f", "w"], ["s"]),
        onnx.helper.make_node("Softmax", ["s"], ["y"], axis=-1),
    ]
    body = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["N", 3, 16, 16])],
        [value("y", onnx.TensorProto.FLOAT, ["N", 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), file)
    return weights


def test_a_graph_of_onnx_is_exported_and_asks_the_same_question(given: Path, tmp_path: Path) -> None:
    weights = graph(tmp_path / "net.onnx")
    error = export(given, tmp_path / "out", "--from-onnx", tmp_path / "net.onnx", code=1).stderr
    assert "give --preprocess none, caffe, tf, torch or MEAN/STD" in error
    assert error.splitlines()[2].startswith("  --preprocess torch --color rgb"), "torch's own transforms come first"
    export(given, tmp_path / "out", "--from-onnx", tmp_path / "net.onnx", "--preprocess", "tf")
    pixels = clips_of()
    scores = (pixels.astype(np.float64) / 127.5 - 1).mean(axis=(2, 3)) @ weights
    wanted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    wanted = (wanted / wanted.sum(axis=-1, keepdims=True)).mean(axis=1)
    np.testing.assert_allclose(answers(open_bundle(tmp_path / "out"), pixels), wanted, atol=1e-5)
