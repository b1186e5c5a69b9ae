"""Ranges that waste most of their 256 levels are found on real rows, and the nodes that read them are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.quantize import quantize_network
from models.quantize.ranges import WIDE_ALL, WIDE_ONE, activation_ranges, range_warnings, ranges_sentence
from service.bundle.store import Bundle
from tests.clip_bundle import make_clip_bundle


def outlier(model: onnx.ModelProto, layer: str, factor: float) -> onnx.ModelProto:
    """`model` with one channel of a convolution made larger, and its bound after it taken away."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    node = next(node for node in changed.graph.node if node.name == f"{layer}/Conv")
    for name in node.input[1:]:
        tensor = next(tensor for tensor in changed.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[0] *= factor
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    reader = next(reader for reader in changed.graph.node if node.output[0] in reader.input)
    reader.op_type = "Relu"
    del reader.input[1:]
    return changed


def test_a_tensor_with_one_channel_far_above_the_others_is_named_by_its_reader(
    foreign_bundle: Bundle, calibration_frames: np.ndarray
) -> None:
    rows = calibration_frames[:8]
    model = onnx.load(foreign_bundle.file("encoder"))
    healthy = activation_ranges(model, quantize_network(model, rows=rows), rows)
    assert len(healthy) == 52, "one for each convolution"
    assert all(row["over_rms"] < WIDE_ONE for row in healthy)
    assert range_warnings(healthy) == []
    widened = outlier(model, "block_6_expand", 1e4)
    table = activation_ranges(widened, quantize_network(widened, rows=rows), rows)
    before = {tuple(row["nodes"]): row["over_rms"] for row in healthy}
    after = {tuple(row["nodes"]): row["over_rms"] for row in table}
    assert after[("block_6_depthwise/Conv",)] > 3 * before[("block_6_depthwise/Conv",)]
    assert after[("block_3_depthwise/Conv",)] == before[("block_3_depthwise/Conv",)], (
        "what stands before it is as it was"
    )


def test_what_the_quantizer_pads_is_looked_at_as_the_network_has_it(tmp_path: Path) -> None:
    bundle = make_clip_bundle(tmp_path / "motion", frames=4)
    rows = bundle.golden().frames
    model = onnx.load(bundle.file("clip"))
    (row,) = activation_ranges(model, quantize_network(model, rows=rows), rows)
    values = rows / 255
    assert row["largest"] == pytest.approx(values.max())
    assert row["over_rms"] == pytest.approx(values.max() / np.sqrt(np.square(values).mean()), abs=0.06)


def table(*over_rms: float) -> list[dict]:
    return [{"nodes": [f"layer{n}/Conv"], "largest": 7.5, "over_rms": value} for n, value in enumerate(over_rms)]


def test_one_wide_range_is_told_with_the_way_to_keep_it_in_float() -> None:
    (sentence,) = range_warnings(table(WIDE_ONE + 20, WIDE_ONE - 1, 8, 6, 5))
    assert "what 'layer0/Conv' reads reaches 7.5, 120 times its rms" in sentence
    assert "--skip layer0/Conv" in sentence


def test_where_all_are_wide_one_sentence_says_so() -> None:
    (sentence,) = range_warnings(table(300, WIDE_ALL + 5, WIDE_ALL + 2, 30))
    assert "of 4 ranges half are more than 44 times" in sentence
    assert range_warnings([]) == []


def test_what_was_measured_is_told_where_nothing_is_wrong_with_it() -> None:
    told = ranges_sentence(table(12.4, 8, 6))
    assert told.startswith(
        "Ranges on calibration frames: the widest of 3 is 12 times the rms of what it holds (before layer0/Conv;"
    )
    assert "the median is 8 times" in told
