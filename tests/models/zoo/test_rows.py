"""Every architecture goes the whole way, small and with random weights: built, exported, quantized, built by TensorRT, equal to Keras.

A new architecture is a line of `ROWS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, get_args

import keras
import numpy as np
import onnx
import pytest
from pydantic import TypeAdapter

from models.export.exporter import export_model
from models.export.half import widen
from models.export.report.eight_bits import int8_nodes
from models.pipeline import copy_bundle
from models.quantize import CalibrationData, quantize_bundle
from models.synthetic import synthetic_clips
from models.zoo.architecture import Architecture
from models.zoo.architectures import AnyArchitecture
from service.bundle.manifest import Color, Input, Kind, Precision, Role, Sampling
from service.bundle.store import Bundle
from service.engine.base import Place
from service.engine.golden import probabilities
from service.engine.select import open_engine

LABELS = ("ape", "bee", "cat")
LOOPS = {"Loop", "Scan", "If"}
CLIPS = 12


@dataclass(frozen=True, slots=True)
class Row:
    """`architecture`: as in a recipe. `kind`: how it is exported. `int8`: its convolutions that TensorRT computes in INT8, None where
    nothing is meant for it. `nodes`: kinds of nodes that must be in its graphs.
    """

    architecture: dict[str, Any]
    kind: Kind = "encoder_head"
    size: tuple[int, int] = (32, 32)
    color: Color = "rgb"
    frames: int = 4
    int8: int | None = None
    nodes: tuple[str, ...] = ()

    @property
    def input(self) -> Input:
        return Input(height=self.size[0], width=self.size[1], color=self.color)

    def model(self) -> keras.Model:
        architecture: Architecture = TypeAdapter(AnyArchitecture).validate_python(self.architecture)
        return architecture.build(classes=len(LABELS), input=self.input, frames=self.frames, seed=3)


BACKBONE = {"until": "block1", "weights": "none"}
GREY: Any = {"size": (28, 28), "color": "gray", "frames": 1}
ROWS = {
    "cnn": Row({"name": "cnn", **BACKBONE, "hidden": 8}, int8=6),
    "cnn on MobileNetV2": Row({"name": "cnn", "backbone": "MobileNetV2", "until": "block_1_project_BN", "weights": "none"}, int8=6),
    "cnn on ResNet50": Row({"name": "cnn", "backbone": "ResNet50", "until": "conv2_block1_out", "weights": "none"}, int8=5),
    "cnn on VGG16": Row({"name": "cnn", "backbone": "VGG16", "until": "block2_pool", "weights": "none"}, int8=4),
    "cnn3d": Row({"name": "cnn3d", "filters": [4, 8], "change": "differences"}, kind="clip", int8=2),
    "cnn_lstm": Row({"name": "cnn_lstm", **BACKBONE, "grid": [2, 2], "change": "motion", "units": 8, "readout": "mean"}, int8=6, nodes=("LSTM",)),
    "cnn_lstm as a GRU, one way": Row({"name": "cnn_lstm", **BACKBONE, "cell": "gru", "bidirectional": False, "units": 8}, int8=6, nodes=("GRU",)),
    "cnn_lstm of two layers with attention": Row({"name": "cnn_lstm", **BACKBONE, "units": 8, "layers": 2, "readout": "attention"}, int8=6, nodes=("LSTM", "Softmax")),
    "cnn_seq_image": Row({"name": "cnn_seq_image", **BACKBONE, "units": 8}, frames=1, int8=6, nodes=("LSTM",)),
    "cnn_transformer_lstm": Row({"name": "cnn_transformer_lstm", **BACKBONE, "width": 8, "heads": 2, "units": 8}, int8=6, nodes=("LSTM", "Softmax")),
    "convlstm": Row({"name": "convlstm", "stem": 4, "filters": [4, 4], "change": "differences"}, kind="clip", int8=9),
    "defect_bilstm": Row({"name": "defect_bilstm", **BACKBONE, "projection": 8, "units": 4}, kind="clip", frames=1, int8=6, nodes=("LSTM",)),
    "lite_lstm": Row({"name": "lite_lstm", "stem": 8, "filters": [8, 16], "grid": [2, 2], "scale": "frame", "units": 8}, int8=5, nodes=("LSTM",)),
    "patch_bilstm": Row({"name": "patch_bilstm", "width": 8, "units": 4}, frames=1, int8=1, nodes=("LSTM",)),
    "patch_bilstm, a CNN of each patch": Row({"name": "patch_bilstm", "embedding": "conv", "width": 8, "units": 4}, frames=1, int8=4, nodes=("LSTM",)),
    "row_lstm": Row({"name": "row_lstm", "units": 16}, **GREY, nodes=("Gather", "LSTM", "Softmax")),
    "row_lstm by columns, each in two": Row({"name": "row_lstm", "units": 8, "scan": "columns", "steps": 56, "embedding": 2}, **GREY, nodes=("LSTM",)),
    "row_lstm_regularized": Row({"name": "row_lstm_regularized", "units": [16, 8], "hidden": 8}, **GREY, nodes=("LSTM",)),
    "small_cnn": Row({"name": "small_cnn", "widths": [[8], [8, 16]]}, **GREY, int8=3),
}  # fmt: skip
# Whose weights are pretrained and whose shape is fixed: tests of its own, and of the bundle that ships.
ELSEWHERE = {"imagenet_classifier"}


@dataclass(frozen=True, slots=True)
class Made:
    """A row's network, what Keras says to `clips` `[CLIPS, T, H, W, C]`, and its bundle, with INT8 where something is meant for it."""

    row: Row
    clips: np.ndarray
    said: np.ndarray
    bundle: Bundle


@pytest.fixture(scope="module", params=ROWS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    row = ROWS[request.param]
    keras.utils.set_random_seed(3)
    model = row.model()
    clips = synthetic_clips(
        count=CLIPS, frames=row.frames, height=row.size[0], width=row.size[1], channels=row.input.channels, seed=4
    )
    _settle(model, clips)
    folder = tmp_path_factory.mktemp("row")
    bundle = export_model(
        model,
        out=folder / "float",
        name="row",
        version="1.0.0",
        labels=LABELS,
        input=row.input,
        sampling=Sampling(frames=row.frames, short_clip="repeat"),
    )
    if _int8_nodes(bundle):
        source = CalibrationData("synthetic clips, seed 4", "0" * 64)
        frames = clips.reshape(-1, *clips.shape[2:])
        out = folder / "int8"
        bundle = quantize_bundle(bundle, frames=frames, calibration=source, clip_frames=row.frames, out=out)
    yield Made(row, clips, _say(model, clips), copy_bundle(bundle, folder / "bundle"))
    keras.backend.clear_session()


def test_every_architecture_that_a_recipe_may_name_is_a_row() -> None:
    union, _ = get_args(AnyArchitecture)
    names = {get_args(kind.model_fields["name"].annotation)[0] for kind in get_args(union)}
    assert names == {row.architecture["name"] for row in ROWS.values()} | ELSEWHERE


def test_its_graphs_hold_real_layers_and_no_loop(made: Made) -> None:
    kinds = {node.op_type for role in made.bundle.manifest.artifacts for node in _graph(made.bundle, role).node}
    assert kinds.isdisjoint(LOOPS)
    assert kinds.issuperset(made.row.nodes)
    assert made.bundle.manifest.network.kind == made.row.kind


def test_the_engine_that_serves_it_answers_as_keras_does(made: Made) -> None:
    assert np.ptp(made.said, axis=0).max() > 0.05, "clips that all get the same answer would show nothing"
    assert np.abs(_served(made, "fp32") - made.said).max() <= 1e-4


def test_in_int8_it_answers_nearly_so_or_nothing_in_it_is_meant_for_int8(made: Made) -> None:
    assert made.bundle.manifest.quantized == (made.row.int8 is not None)
    if made.row.int8 is not None:
        found = _served(made, "int8")
        assert 0 < np.abs(found - made.said).max() < 0.15
        assert (found.argmax(1) == made.said.argmax(1)).mean() >= 0.75


def test_tensorrt_builds_it_at_every_precision(made: Made) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the gate needs tensorrt-rtx, which is for x86-64 only")
    from models.export.gate import build_gate  # noqa: PLC0415 -- where there is a TensorRT to build with

    for role in made.bundle.manifest.artifacts:
        for half in (False, True):
            gate = build_gate(made.bundle.file(role).read_bytes(), profile=(1, 4, 8), half=half)
            assert len(gate.int8) == (made.row.int8 if role.endswith("int8") else 0)


def _settle(model: keras.Model, clips: np.ndarray) -> None:
    """Statistics of BatchNorm as training on `clips` would leave them, and a last layer that tells clips apart."""
    norms = [layer for layer in _layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0  # one pass sets the statistics
    rows = clips.astype(np.float32)
    model(rows.reshape(-1, *rows.shape[2:]) if len(model.input_shape) == 4 else rows, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    last = [layer for layer in _layers(model) if isinstance(layer, keras.layers.Dense) and layer.units == len(LABELS)][
        -1
    ]
    scores = np.log(np.maximum(_say(model, clips), 1e-9))
    scores -= scores.mean(axis=1, keepdims=True)
    factor = 1.0 / max(float(scores.std(axis=0).max()), 1e-6)
    last.kernel.assign(factor * last.kernel)
    last.bias.assign(factor * (last.bias - scores.mean(axis=0)))


def _layers(model: keras.Model) -> list[keras.Layer]:
    return list(model._flatten_layers(include_self=False, recursive=True))


def _say(model: keras.Model, clips: np.ndarray) -> np.ndarray:
    """`[n, K]`; a network of images answers for each frame, and a clip's answer is their mean."""
    rows = clips.astype(np.float32)
    images = len(model.input_shape) == 4
    found = model(rows.reshape(-1, *rows.shape[2:]) if images else rows, training=False)
    answer = np.asarray(found["probabilities"] if isinstance(found, dict) else found)
    return answer.reshape(len(clips), -1, answer.shape[-1]).mean(1)


def _served(made: Made, precision: Precision) -> np.ndarray:
    opened = open_engine(made.bundle, name="openvino", precision=precision, place=Place(threads=1))
    with closing(opened.engine):
        return probabilities(opened.engine, made.clips)


def _graph(bundle: Bundle, role: Role) -> onnx.GraphProto:
    return onnx.load(bundle.file(role)).graph


def _int8_nodes(bundle: Bundle) -> tuple[str, ...]:
    first = onnx.load(bundle.file(bundle.manifest.network.stages[0]))
    return int8_nodes(widen(first).graph)
