"""INT8 graphs are legal, small, and agree with float as far as eight bits can."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.errors import ExportRefused
from models.export.runtime import Runtime
from models.quantize import CalibrationData, assert_legal, quantize_bundle, quantize_network
from models.quantize.measure import OpenVino, hints, tolerance
from service.bundle.store import Bundle, open_bundle


@pytest.fixture(scope="module")
def quantized(foreign_int8: Bundle) -> onnx.ModelProto:
    return onnx.load(foreign_int8.file("encoder.int8"))


@pytest.fixture
def broken(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """A copy to break."""
    return onnx.ModelProto.FromString(quantized.SerializeToString())


def first(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def replace(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


def test_every_convolution_and_residual_add_is_int8(foreign_int8: Bundle) -> None:
    report = json.loads((foreign_int8.path / "report.json").read_text())["quantization"]
    assert report["nodes"]["Conv"] == {"nodes": 52, "int8": 52}
    assert report["nodes"]["Add"]["int8"] == 10
    assert report["weights"]["ratio"] <= 0.30
    assert report["file_bytes"] < 0.3 * foreign_int8.manifest.artifacts["encoder"].bytes


def test_of_a_residual_add_only_the_skip_passes_qdq(quantized: onnx.ModelProto) -> None:
    made = {output: node for node in quantized.graph.node for output in node.output}
    adds = [node for node in quantized.graph.node if node.op_type == "Add" and all(name in made for name in node.input)]
    assert len(adds) == 10
    for add in adds:
        assert sorted(made[name].op_type for name in add.input) == ["Conv", "DequantizeLinear"], add.name


def test_openvino_runs_it_and_agrees_with_float_wherever_float_is_sure(
    foreign_int8: Bundle, calibration_frames: np.ndarray
) -> None:
    head, count = Runtime(foreign_int8.file("head").read_bytes()), len(calibration_frames) // 4
    floats = Runtime(foreign_int8.file("encoder").read_bytes())(calibration_frames)["features"]
    wanted = head(floats.reshape(count, 4, -1))["probabilities"]
    top = np.sort(wanted, axis=1)
    sure = top[:, -1] - top[:, -2] > 0.3
    assert sure.sum() >= 4
    for hint in hints():
        features = OpenVino(foreign_int8.file("encoder.int8").read_bytes(), hint=hint)(calibration_frames)
        found = head(features.reshape(count, 4, -1))["probabilities"]
        assert (found.argmax(axis=1) == wanted.argmax(axis=1))[sure].all()
        cosine = (floats * features).sum(1) / np.linalg.norm(floats, axis=1) / np.linalg.norm(features, axis=1)
        assert cosine.mean() > 0.97


def test_openvino_and_onnxruntime_read_the_same_numbers_from_it(
    foreign_int8: Bundle, calibration_frames: np.ndarray
) -> None:
    data = foreign_int8.file("encoder.int8").read_bytes()
    ours, theirs = Runtime(data)(calibration_frames[:8])["features"], OpenVino(data, hint="f32")(calibration_frames[:8])
    spread = np.abs(ours).max()
    assert np.abs(ours - theirs).mean() < 0.02 * spread  # another order of fusion flips roundings


def test_the_manifest_records_calibration_and_a_tolerance_that_was_measured(foreign_int8: Bundle) -> None:
    bundle = open_bundle(foreign_int8.path)
    manifest, golden = bundle.manifest, bundle.golden()
    assert manifest.calibration is not None
    assert (manifest.calibration.frames, manifest.calibration.method) == (64, "MinMax")
    assert manifest.calibration.data == "synthetic clips, seed 5"
    flat = golden.frames.reshape(-1, 96, 96, 3)
    features = OpenVino(bundle.file("encoder.int8").read_bytes(), hint="f32")(flat)
    found = Runtime(bundle.file("head").read_bytes())(features.reshape(*golden.frames.shape[:2], -1))["probabilities"]
    difference = float(np.abs(found - golden.probabilities).max())
    assert difference < manifest.golden.tolerance["int8"] <= max(0.03, 1.75 * difference + 0.05)
    assert manifest.golden.tolerance["fp32"] == 1e-3


def test_the_tolerance_never_falls_below_what_fusion_alone_changes() -> None:
    assert tolerance({"f32": 0.0, "bf16": 0.001}) == 0.03
    assert tolerance({"f32": 0.1, "bf16": 0.2}) == pytest.approx(0.37)


def test_the_float_graphs_stay_as_they_were(foreign_bundle: Bundle, foreign_int8: Bundle) -> None:
    for role in ("encoder", "head"):
        assert foreign_int8.file(role).read_bytes() == foreign_bundle.file(role).read_bytes()
    assert "export" in json.loads((foreign_int8.path / "report.json").read_text())


def test_a_skipped_node_stays_float(foreign_bundle: Bundle, calibration_frames: np.ndarray) -> None:
    model = onnx.load(foreign_bundle.file("encoder"))
    quantized = quantize_network(model, rows=calibration_frames[:8], skip=("Conv1/Conv",))
    made = {output: node.op_type for node in quantized.graph.node for output in node.output}
    kinds = {node.name: made.get(node.input[1]) for node in quantized.graph.node if node.op_type == "Conv"}
    assert kinds.pop("Conv1/Conv") is None
    assert set(kinds.values()) == {"DequantizeLinear"}


@pytest.mark.parametrize(
    ("skip", "floats"),
    [
        ("block_1_expand", {"block_1_expand/Conv"}),
        ("block_16*", {f"block_16_{part}/Conv" for part in ("expand", "depthwise", "project")}),
        ("*_expand/Conv", {f"block_{number}_expand/Conv" for number in range(1, 17)}),
    ],
)
def test_a_layer_or_a_pattern_skips_its_nodes(
    foreign_bundle: Bundle, calibration_frames: np.ndarray, skip: str, floats: set[str]
) -> None:
    model = onnx.load(foreign_bundle.file("encoder"))
    quantized = quantize_network(model, rows=calibration_frames[:8], skip=(skip,))
    made = {output: node.op_type for node in quantized.graph.node for output in node.output}
    convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
    assert {node.name for node in convolutions if made.get(node.input[1]) != "DequantizeLinear"} == floats


def test_a_node_to_skip_that_does_not_exist_is_named(foreign_bundle: Bundle, calibration_frames: np.ndarray) -> None:
    with pytest.raises(ExportRefused, match=r"no node 'stem/Conv' to skip; nodes are named layer/Kind"):
        quantize_network(onnx.load(foreign_bundle.file("encoder")), rows=calibration_frames, skip=("stem/Conv",))


def test_frames_of_another_size_are_refused(foreign_bundle: Bundle) -> None:
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    with pytest.raises(ExportRefused, match=r"are uint8 \[4, 64, 64, 3\], expected uint8 \[N, 96, 96, 3\]"):
        quantize_bundle(foreign_bundle, frames=frames, calibration=CalibrationData("too small", "0" * 64))


def test_the_legal_graph_is_let_through(quantized: onnx.ModelProto) -> None:
    assert assert_legal(quantized) > 100


def test_a_zero_point_other_than_zero_is_refused(broken: onnx.ModelProto) -> None:
    replace(broken, first(broken, "QuantizeLinear").input[2], lambda zero: np.full_like(zero, 3))
    with pytest.raises(ExportRefused, match="zero-point 3, TensorRT takes 0 only"):
        assert_legal(broken)


def test_a_uint8_zero_point_is_refused(broken: onnx.ModelProto) -> None:
    replace(broken, first(broken, "QuantizeLinear").input[2], lambda zero: zero.astype(np.uint8))
    with pytest.raises(ExportRefused, match="zero-point of UINT8"):
        assert_legal(broken)


def test_a_missing_zero_point_is_refused(broken: onnx.ModelProto) -> None:
    del first(broken, "QuantizeLinear").input[2]
    with pytest.raises(ExportRefused, match="zero-point of no constant"):
        assert_legal(broken)


def test_an_int32_bias_is_refused(broken: onnx.ModelProto) -> None:
    weights = {
        tensor.name
        for tensor in broken.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    }
    node = next(node for node in broken.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights)
    replace(broken, node.input[0], lambda values: values.astype(np.int32))
    with pytest.raises(ExportRefused, match="reads INT32 weights"):
        assert_legal(broken)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_not_positive_is_refused(broken: onnx.ModelProto, scale: float) -> None:
    replace(broken, first(broken, "QuantizeLinear").input[1], lambda values: np.full_like(values, scale))
    with pytest.raises(ExportRefused, match="expected finite float32 above 0"):
        assert_legal(broken)


def test_an_integer_operator_is_refused(broken: onnx.ModelProto) -> None:
    broken.graph.node.append(helper.make_node("ConvInteger", ["a", "b"], ["c"], name="whole"))
    with pytest.raises(ExportRefused, match="'whole' is ConvInteger"):
        assert_legal(broken)


def test_a_graph_without_int8_is_refused(foreign_bundle: Bundle) -> None:
    with pytest.raises(ExportRefused, match="nothing in it is INT8"):
        assert_legal(onnx.load(foreign_bundle.file("encoder")))


@pytest.mark.parametrize("side", ["input", "output"])
def test_qdq_on_the_recurrent_part_is_refused_even_behind_a_transpose(foreign_bundle: Bundle, side: str) -> None:
    head = onnx.load(foreign_bundle.file("head"))
    graph = head.graph
    graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "scale"))
    graph.initializer.append(numpy_helper.from_array(np.int8(0), "zero"))
    lstm = first(head, "LSTM")
    if side == "input":
        target = next(node for node in graph.node if node.output[0] == lstm.input[0])  # the Transpose before it
    else:
        target = next(node for node in graph.node if lstm.output[0] in node.input)  # the Transpose after it
        target = next(node for node in graph.node if target.output[0] in node.input)
    source = target.input[0]
    pair = [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dq"),
    ]
    target.input[0] = "dq"
    graph.node.extend(pair)
    with pytest.raises(ExportRefused, match="keep the recurrent part in float"):
        assert_legal(head)
