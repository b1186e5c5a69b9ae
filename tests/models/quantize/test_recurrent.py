"""Recurrent kernels as int8: a quarter of the bytes, the same answers, and a graph that TensorRT takes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.errors import ExportRefused
from models.export.half import halve
from models.export.runtime import Runtime
from models.quantize.recurrent import weights_in_int8, weights_only
from models.quantize.trial import Reference, Trial
from tests.models.quantize.drawn import Drawing, frames_of, mean_head

DEPTH, UNITS, CLASSES = 96, 112, 5
KINDS = {"lstm": ("LSTM", 1), "bidirectional lstm": ("LSTM", 2), "gru": ("GRU", 1)}


# Of Keras's GRU (reset_after): the recurrent kernel alone is what it cannot take from a DequantizeLinear.
_NOT_BUILT = pytest.mark.xfail(
    raises=ExportRefused, reason="TensorRT-RTX 1.7.1: MyelinCheckException in bb.cpp, with linear_before_reset"
)


def head_of(kind: str, *, depth: int = DEPTH, units: int = UNITS) -> onnx.ModelProto:
    """Features `[B, T, D]` → the recurrent layer → the softmax of its last output."""
    op, directions = KINDS[kind]
    gates, random = {"LSTM": 4, "GRU": 3}[op], np.random.default_rng(9)
    weights = {
        "w": random.normal(0, 1 / np.sqrt(depth), (directions, gates * units, depth)),
        "r": random.normal(0, 1 / np.sqrt(units), (directions, gates * units, units)),
        "b": random.normal(0, 0.2, (directions, 2 * gates * units)),
        "dense": random.normal(0, 3 / np.sqrt(directions * units), (directions * units, CLASSES)),
    }
    options = {"hidden_size": units, "direction": "bidirectional" if directions == 2 else "forward"}
    options |= {"linear_before_reset": 1} if op == "GRU" else {}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["features"], ["steps"], name="rnn/Transpose", perm=[1, 0, 2]),
            helper.make_node(op, ["steps", "w", "r", "b"], ["", "last"], name=f"rnn/{op}", **options),
            helper.make_node("Transpose", ["last"], ["turned"], name="rnn/Transpose_2", perm=[1, 0, 2]),
            helper.make_node("Reshape", ["turned", "shape"], ["joined"], name="rnn/Reshape"),
            helper.make_node("MatMul", ["joined", "dense"], ["logits"], name="decides/MatMul"),
            helper.make_node("Softmax", ["logits"], ["probabilities"], name="decides/Softmax", axis=-1),
        ],
        "head",
        [value("features", TensorProto.FLOAT, ["B", "T", depth])],
        [value("probabilities", TensorProto.FLOAT, ["B", CLASSES])],
        [
            *(numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()),
            numpy_helper.from_array(np.array([-1, directions * units], np.int64), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def small(kind: str) -> onnx.ModelProto:
    found = weights_in_int8(head_of(kind))
    assert found is not None
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_takes_less_than_a_third_of_the_bytes_and_answers_alike(kind: str) -> None:
    head = head_of(kind)
    before = head.SerializeToString(deterministic=True)
    changed = small(kind)
    assert changed.ByteSize() < 0.3 * head.ByteSize()
    assert head.SerializeToString(deterministic=True) == before
    features = np.random.default_rng(3).normal(0, 1, (32, 12, DEPTH)).astype(np.float32)
    wanted, found = (Runtime(model)(features)["probabilities"] for model in (head, changed))
    assert wanted.std(axis=0).max() > 0.05, "or every answer is the same"
    assert 0 < np.abs(found - wanted).max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_of_every_gate_has_a_scale_of_its_own(kind: str) -> None:
    head, changed = head_of(kind), small(kind)
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in head.graph.initializer}
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    for name in ("w", "r"):
        assert held[f"{name}/int8"].dtype == np.int8
        assert held[f"{name}/scale"] == pytest.approx(np.abs(exact[name]).max(axis=2).ravel() / 127, rel=1e-6)
        back = (held[f"{name}/int8"] * held[f"{name}/scale"][:, None]).reshape(exact[name].shape)
        assert (np.abs(back - exact[name]) <= 0.501 * np.abs(exact[name]).max(axis=2, keepdims=True) / 127).all()
    assert np.array_equal(held["b"], exact["b"])
    assert np.array_equal(held["dense"], exact["dense"])


def test_a_head_stored_in_half_precision_gives_the_same() -> None:
    head = head_of("lstm")
    for tensor in head.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    wide, stored = weights_in_int8(head), weights_in_int8(halve(head))
    assert wide is not None
    assert stored is not None
    assert wide.SerializeToString(deterministic=True) == stored.SerializeToString(deterministic=True)


def test_a_head_without_a_recurrent_layer_has_none() -> None:
    assert weights_in_int8(mean_head(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))) is None


@pytest.mark.parametrize("kind", ["lstm", "bidirectional lstm", pytest.param("gru", marks=_NOT_BUILT)])
def test_tensorrt_builds_it(kind: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the gate needs tensorrt-rtx, which is for x86-64 only")
    from models.export.gate import build_gate  # noqa: PLC0415 -- where there is a TensorRT to build with

    changed = weights_in_int8(head_of(kind, depth=16, units=12))
    assert changed is not None
    gate = build_gate(changed, profile=(1, 4, 8))
    assert gate.layers > 3
    assert not gate.int8


def encoder() -> bytes:
    drawing = Drawing(seed=5)
    drawing.flat(drawing.relu(drawing.conv("planes", 6, name="conv1"), name="act1"), size=4, width=24)
    return drawing.model(features=["N", 24]).SerializeToString()


def test_what_it_would_save_and_change_is_told_of_the_trial() -> None:
    head = head_of("bidirectional lstm", depth=24)
    clips = tuple(frames_of(4, seed=number) // (1 + number % 4) for number in range(20))
    reference = Reference(encoder(), head.SerializeToString(), Trial("val", clips, np.zeros(20, np.int64)))
    told = weights_only(head.SerializeToString(), reference)
    changed = weights_in_int8(head)
    assert told is not None
    assert changed is not None
    answers = np.concatenate([Runtime(changed)(part[None])["probabilities"] for part in reference.parts])
    assert told["bytes"] == len(changed.SerializeToString(deterministic=True))
    assert told["stored_bytes"] == len(head.SerializeToString())
    assert told["ratio"] == pytest.approx(told["bytes"] / told["float_bytes"], abs=1e-4)
    assert told["max_probability_difference"] == pytest.approx(np.abs(answers - reference.answers).max(), rel=1e-6)
    assert told["max_probability_difference"] < 0.02
    assert told["top1_agreement"] == (answers.argmax(axis=1) == reference.answers.argmax(axis=1)).mean()
    assert "It is not kept" in told["sentence"]


def test_of_a_head_without_a_recurrent_layer_nothing_is_told() -> None:
    head = mean_head(np.eye(24, 3, dtype=np.float32), np.zeros(3, np.float32)).SerializeToString()
    trial = Trial("val", (frames_of(2),), np.zeros(1, np.int64))
    assert weights_only(head, Reference(encoder(), head, trial)) is None
