"""A network hostile to INT8: one channel 200 times as large, read by weights as much smaller, the same in float."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.quantize import CalibrationData, quantize_bundle, quantize_network
from models.quantize.search import MIN_AGREEMENT, Search, search
from models.quantize.trial import Fidelity, Reference
from tests.models.quantize.digits import Digits, hostile, make_bundle, right, said

MAX_DROP = 0.01


def searched(digits: Digits, encoder: onnx.ModelProto) -> Search:
    head = digits.head.SerializeToString()
    return search(encoder, head, rows=digits.rows, trial=digits.trial(), max_drop=MAX_DROP)


def fidelity(digits: Digits, floats: onnx.ModelProto, int8: onnx.ModelProto) -> Fidelity:
    return Reference(floats.SerializeToString(), digits.head.SerializeToString(), digits.trial()).compare(int8)


def int8_kernels(model: onnx.ModelProto) -> set[str]:
    made = {output: node.op_type for node in model.graph.node for output in node.output}
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    return {node.name for node in nodes if made.get(node.input[1]) == "DequantizeLinear"}


@pytest.fixture(scope="module")
def repaired(digits: Digits) -> Search:
    return searched(digits, hostile(digits.encoder, 1))


@pytest.fixture(scope="module")
def kept(capped_digits: Digits) -> Search:
    return searched(capped_digits, hostile(capped_digits.encoder, 1))


def test_float_sees_no_difference_and_plain_int8_fails(digits: Digits) -> None:
    frames, truth = digits.part("test")
    plain, made = (said(each, digits.head, frames) for each in (digits.encoder, hostile(digits.encoder, 1)))
    assert np.abs(plain - made).max() < 1e-5
    assert right(plain, truth) > 0.85
    whole = fidelity(digits, digits.encoder, quantize_network(digits.encoder, rows=digits.rows))
    assert (whole.top1_agreement, whole.drop) > (0.98, -0.01), "without the hostile channel there is nothing to repair"
    broken = hostile(digits.encoder, 1)
    spoiled = fidelity(digits, broken, quantize_network(broken, rows=digits.rows))
    assert spoiled.top1_agreement < 0.8
    assert spoiled.drop > 0.2


def test_it_is_repaired_by_making_channels_alike(digits: Digits, repaired: Search) -> None:
    assert repaired.plan.equalized
    assert repaired.plan.floats == ()
    assert repaired.holds
    assert int8_kernels(repaired.quantized) == {"conv1/Conv", "conv2/Conv", "conv3/Conv"}
    found = fidelity(digits, hostile(digits.encoder, 1), repaired.quantized)
    assert found.top1_agreement >= MIN_AGREEMENT
    assert found.drop <= MAX_DROP
    assert found.kl < 0.01


def test_what_was_repaired_holds_on_clips_that_chose_nothing(digits: Digits, repaired: Search) -> None:
    frames, truth = digits.part("test")
    float_, int8 = (said(each, digits.head, frames) for each in (hostile(digits.encoder, 1), repaired.quantized))
    assert (float_.argmax(axis=1) == int8.argmax(axis=1)).mean() >= MIN_AGREEMENT
    assert right(float_, truth) - right(int8, truth) <= MAX_DROP


def test_the_float_network_that_was_repaired_is_handed_back(digits: Digits, repaired: Search) -> None:
    broken = hostile(digits.encoder, 1)
    frames, _ = digits.part("test")
    assert repaired.floats != broken
    assert np.array_equal(said(repaired.floats, digits.head, frames), said(broken, digits.head, frames))


def test_the_table_shows_what_each_way_cost(repaired: Search) -> None:
    rows = repaired.tables["methods"]
    (taken,) = (row for row in rows if row["taken"])
    assert (taken["equalized"], taken["method"]) == (True, repaired.plan.method)
    plain = [row for row in rows if not row["equalized"]]
    assert min(row["kl"] for row in plain) > 10 * taken["kl"]
    assert next(row for row in plain if row["method"] == "MinMax")["drop"] > 0.2
    assert repaired.tables["holds"]
    assert (repaired.tables["nodes_in_float"], repaired.tables["nodes_eligible"]) == (0, 3)


@pytest.mark.parametrize("layer", [1, 2])
def test_where_channels_cannot_be_made_alike_the_layer_that_reads_the_hot_one_stays_float(
    capped_digits: Digits, kept: Search, layer: int
) -> None:
    broken = hostile(capped_digits.encoder, layer)
    found = kept if layer == 1 else searched(capped_digits, broken)
    guilty = f"conv{layer + 1}/Conv"
    rows = found.tables["sensitivity"]["rows"]
    assert rows[0]["node"] == guilty
    assert rows[0]["kl"] > 20 * rows[1]["kl"]
    assert rows[0]["top1_agreement"] < rows[1]["top1_agreement"]
    assert not found.plan.equalized
    assert not any(row["equalized"] for row in found.tables["methods"])
    assert found.plan.floats == (guilty,)
    assert found.holds
    assert guilty not in int8_kernels(found.quantized)
    assert len(int8_kernels(found.quantized)) == 2
    after = fidelity(capped_digits, broken, found.quantized)
    assert after.top1_agreement >= MIN_AGREEMENT
    assert after.drop <= MAX_DROP


def test_the_table_tells_what_the_layer_in_float_bought(kept: Search) -> None:
    without, with_it = kept.tables["plan"]
    assert (without["float_nodes"], without["taken"]) == ([], False)
    assert (with_it["float_nodes"], with_it["taken"]) == (["conv2/Conv"], True)
    assert without["top1_agreement"] < MIN_AGREEMENT <= with_it["top1_agreement"]
    assert kept.tables["nodes_in_float"] == 1


def test_two_hot_channels_would_take_more_than_half_of_the_layers_and_are_not_held_up(capped_digits: Digits) -> None:
    found = searched(capped_digits, hostile(capped_digits.encoder, 1, 2))
    assert not found.holds
    assert not found.tables["holds"]
    assert {row["node"] for row in found.tables["sensitivity"]["rows"][:2]} == {"conv2/Conv", "conv3/Conv"}
    assert max(len(row["float_nodes"]) for row in found.tables["plan"]) == 1


def test_a_network_that_nobody_made_hostile_stays_int8_throughout(digits: Digits) -> None:
    found = searched(digits, digits.encoder)
    assert found.holds
    assert found.plan.floats == ()
    assert [row["float_nodes"] for row in found.tables["plan"]] == [[]]


@pytest.mark.parametrize("repairable", [True, False])
def test_the_manifest_tells_how_it_was_made_and_what_stayed_float(
    digits: Digits, capped_digits: Digits, tmp_path: Path, *, repairable: bool
) -> None:
    ours = digits if repairable else capped_digits
    made = quantize_bundle(
        make_bundle(tmp_path / "digits", ours, hostile(ours.encoder, 1)),
        frames=ours.rows,
        calibration=CalibrationData("digits", "0" * 64, "train"),
        trial=ours.trial(100),
        max_drop=MAX_DROP,
    )
    calibration = made.manifest.calibration
    assert calibration is not None
    assert ("equalized" in calibration.method) == repairable
    assert calibration.skipped == (() if repairable else ("conv2/Conv",))
    assert made.manifest.golden.tolerance["int8"] < 0.1
    report = json.loads((made.path / "report.json").read_text())["quantization"]
    assert report["holds"]
    assert report["calibration_agreement"]["top1_agreement"] >= MIN_AGREEMENT
    assert report["skipped"] == list(calibration.skipped)
    assert {row["node"] for row in report["sensitivity"]["rows"]} == {"conv1/Conv", "conv2/Conv", "conv3/Conv"}
