"""A clip network in INT8: calibrated, proved, judged and timed as whole clips, by the engine that serves it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from models.calibration import CalibrationFrames, from_dataset
from models.cli import main
from models.data.dataset import Dataset
from models.errors import DataError, ExportRefused
from models.export.artifact import artifact
from models.export.runtime import Runtime
from models.judging.assess import assess, time_only
from models.judging.judge import runners_of
from models.pipeline import copy_bundle, quantize_judged
from models.quantize import CalibrationData, assert_legal, quantize_bundle, quantize_network
from models.quantize.measure import OpenVino
from service.bundle.manifest import Network
from service.bundle.store import Bundle, open_bundle, rewrite_bundle
from service.engine.base import Place
from service.engine.select import open_engine
from tests.clip_bundle import LABELS, SIDE, make_clip_bundle

SOURCE = CalibrationData("made here", "0" * 64)


def clips(count: int, *, frames: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    """Clips of blotches by the label that the network gives them, `[T, 16, 16, 3]`."""
    random = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        label = LABELS[number % len(LABELS)]
        clip = random.integers(0, 60, (frames, SIDE // 4, SIDE // 4, 3), np.uint8).repeat(4, axis=1).repeat(4, axis=2)
        if label in LABELS[:3]:
            clip[..., LABELS.index(label)] += 180
        elif label == "turns blue":
            clip[frames // 2 :, ..., 2] += 190
        else:
            clip[: frames // 2, ..., 2] += 190
        found[f"{label}/{number}"] = clip
    return found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """60 clips of six frames in one npz: 30 to train, 15 val, 15 test."""
    root = tmp_path_factory.mktemp("data") / "blues"
    root.mkdir()
    lines = ["file,key,label,group,split"]
    made = clips(60)
    for number, key in enumerate(made):
        split = "train" if number < 30 else "val" if number < 45 else "test"
        lines.append(f"clips.npz,{key},{key.partition('/')[0]},{number},{split}")
    np.savez(root / "clips.npz", **made)
    (root / "splits.csv").write_text("\n".join(lines) + "\n")
    return Dataset.open(root, labels=LABELS)


@pytest.fixture(scope="module", params=[None, 4], ids=["any T", "T = 4"])
def motion(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_clip_bundle(tmp_path_factory.mktemp("bundle") / "motion", frames=request.param, positions="steps")


@pytest.fixture(scope="module")
def quantized(motion: Bundle, dataset: Dataset) -> Bundle:
    found = from_dataset(dataset, motion.manifest)
    out = motion.path.with_name("int8")
    return quantize_bundle(
        motion, frames=found.frames, calibration=found.source, clip_frames=found.clip_frames, out=out
    )


def test_calibration_gives_whole_clips_of_the_networks_length(motion: Bundle, dataset: Dataset) -> None:
    found = from_dataset(dataset, motion.manifest, limit=40)
    assert found.clip_frames == 4
    assert found.frames.shape == (30 * 4, SIDE, SIDE, 3), "every clip, and not 40 frames' worth of them"
    whole = found.frames.reshape(30, 4, SIDE, SIDE, 3)
    fades = whole[:, 0, ..., 2].mean(axis=(1, 2)) - whole[:, -1, ..., 2].mean(axis=(1, 2))
    assert (fades > 100).sum() == (fades < -100).sum() == 6, "first frames stand first"


def test_a_picture_is_repeated_to_a_clip(motion: Bundle, tmp_path: Path) -> None:
    lines = ["file,key,label,group,split"]
    stills = clips(40, frames=1, seed=2)
    np.savez(tmp_path / "stills.npz", **stills)
    lines += [f"stills.npz,{key},red,{key},train" for key in stills]
    (tmp_path / "splits.csv").write_text("\n".join(lines) + "\n")
    found = from_dataset(Dataset.open(tmp_path), motion.manifest)
    whole = found.frames.reshape(-1, 4, SIDE, SIDE, 3)
    assert (whole == whole[:, :1]).all()


def test_the_convolution_is_int8_and_what_decides_is_float(quantized: Bundle) -> None:
    bundle = open_bundle(quantized.path)
    assert set(bundle.manifest.artifacts) == {"clip", "clip.int8"}
    entry = bundle.artifact("clip.int8")
    assert (entry.file, entry.precision, entry.weights) == ("clip.int8.onnx", "int8", "int8")
    assert [each.name for each in entry.outputs] == [each.name for each in bundle.artifact("clip").outputs]
    assert assert_legal(onnx.load(bundle.file("clip.int8"))) == 3
    report = json.loads((bundle.path / "report.json").read_text())["quantization"]
    assert report["nodes"]["Conv"] == {"nodes": 1, "int8": 1}
    assert report["nodes"]["MatMul"]["int8"] == 0
    assert report["calibration_agreement"]["top1_agreement"] == 1
    assert report["calibration_agreement"]["clips"] == 30
    assert 0 < report["golden_difference"]["f32"] < 0.02
    assert set(report["golden_difference"]) == {"f32"}, "what decides is never served in bf16"


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_clip_of_any_length_is_answered_as_in_float_colours_being_three(quantized: Bundle, frames: int) -> None:
    fixed = quantized.manifest.network.static_frames
    rows = np.stack(list(clips(10, frames=fixed or frames).values()))
    wanted = Runtime(quantized.file("clip").read_bytes())(rows)["probabilities"]
    found = OpenVino(quantized.file("clip.int8").read_bytes(), hint="f32", batch=2)(rows)
    assert np.abs(found - wanted).max() < 0.02


def test_the_engine_that_serves_it_reproduces_the_golden_clips(quantized: Bundle) -> None:
    opened = open_engine(quantized, name="openvino", precision="int8", place=Place(threads=1))
    with closing(opened.engine):
        assert 0 < opened.golden_difference < 0.02


def test_it_is_judged_and_timed_on_whole_clips_at_both_precisions(quantized: Bundle, dataset: Dataset) -> None:
    assert [str(runner) for runner in runners_of(quantized)] == ["openvino fp32", "openvino int8"]
    bundle, report = assess(quantized, dataset)
    assert report["verdict"]["accepted"]
    assert {metric.precision: (metric.n, metric.accuracy) for metric in bundle.manifest.metrics} == {
        "fp32": (15, 1.0),
        "int8": (15, 1.0),
    }
    for row in report["latency"]:
        assert row["clip_ms"] > 0
        assert row["clip_frames"] == 4
        assert "encoder_1_ms" not in row
    text = (bundle.path / "report.md").read_text()
    assert "clip of 4 frames (ms)" in text
    assert "same top-1 on 100.0% of 30 clips" in text
    assert "Ranges on calibration frames: the widest of 1 is" in text


def test_clips_of_another_length_than_a_fixed_network_takes_are_refused(tmp_path: Path) -> None:
    bundle = make_clip_bundle(tmp_path / "motion", frames=4)
    frames = np.zeros((35, SIDE, SIDE, 3), np.uint8)
    with pytest.raises(ExportRefused, match="clips have 5 frames, the network takes 4 and no other number; sample 4"):
        quantize_bundle(bundle, frames=frames, calibration=SOURCE, clip_frames=5)


def test_of_many_labels_each_is_compared(tmp_path: Path) -> None:
    bundle = make_clip_bundle(tmp_path / "motion", network=Network(kind="clip", attention=True, multi_label=True))
    frames = np.concatenate(list(clips(20).values()))
    changed = quantize_bundle(bundle, frames=frames, calibration=SOURCE, clip_frames=6)
    _, report = time_only(changed)
    found = report["quantization"]["calibration_agreement"]
    assert found["label_agreement"] == 1
    assert "top1_agreement" not in found
    assert "Same answer for 100.0% of the labels" in (bundle.path / "report.md").read_text()


def test_a_multi_label_bundle_is_not_judged_on_clips_of_one_class_and_stays_as_it_was(
    tmp_path: Path, dataset: Dataset
) -> None:
    bundle = make_clip_bundle(tmp_path / "motion", network=Network(kind="clip", attention=True, multi_label=True))
    before = {file.name: file.read_bytes() for file in bundle.path.iterdir()}
    with pytest.raises(
        DataError, match=r"motion is multi-label, and a data set names one class of each clip.*leave --data"
    ):
        assess(bundle, dataset)
    found = from_dataset(dataset, bundle.manifest)
    with pytest.raises(DataError, match="motion is multi-label"):
        quantize_judged(
            bundle, calibration=found, dataset=dataset, split="test", max_drop=0.01, force=False, command=""
        )
    assert {file.name: file.read_bytes() for file in bundle.path.iterdir()} == before


def test_without_labels_the_report_still_says_how_fast_and_how_alike(quantized: Bundle) -> None:
    found = CalibrationFrames(np.concatenate(list(clips(12, frames=4).values())), 4, SOURCE)
    bundle, report = quantize_judged(
        quantized, calibration=found, dataset=None, split="test", max_drop=0.01, force=False, command="marey-build …"
    )
    assert {row["precision"] for row in report["latency"]} == {"fp32", "int8"}
    text = (bundle.path / "report.md").read_text()
    assert "Same top-1 on 100.0% of 12 calibration clips" in text
    assert "clip.int8" in text
    assert "`marey-build …`" in text


def test_the_command_line_keeps_in_float_what_it_is_told_to(motion: Bundle, dataset: Dataset, tmp_path: Path) -> None:
    bundle = copy_bundle(motion, tmp_path / "motion")
    arguments = ["quantize", str(bundle.path), "--calibration", str(dataset.root)]
    refused = CliRunner().invoke(main, [*arguments, "--skip", "conv*"])
    assert refused.exit_code == 1
    assert "error: all 1 nodes that could be INT8 are skipped" in refused.stderr
    assert "clip.int8" not in open_bundle(bundle.path).manifest.artifacts
    done = CliRunner().invoke(main, [*arguments, "--skip", "matmul*"])
    assert done.exit_code == 0, done.output
    calibration = open_bundle(bundle.path).manifest.calibration
    assert calibration is not None
    assert (calibration.skipped, calibration.split, calibration.frames) == (("matmul*",), "train", 120)
    assert "Same top-1 on 100.0% of 30 calibration clips" in done.stdout


def test_a_network_without_anything_for_int8_stays_in_float_and_the_report_says_so(tmp_path: Path) -> None:
    bundle = make_clip_bundle(tmp_path / "motion")
    model = onnx.load(bundle.file("clip"))
    rows = np.stack(list(clips(8, frames=4).values()))
    with pytest.raises(ExportRefused, match="all 1 nodes that could be INT8 are skipped"):
        quantize_network(model, rows=rows, skip=["*"])
    rewritten = transposed(bundle)
    with pytest.raises(ExportRefused, match=r"nothing in the network is meant for INT8.*serve it in float"):
        quantize_network(onnx.load(rewritten.file("clip")), rows=rows)
    changed, report = quantize_judged(
        rewritten,
        calibration=CalibrationFrames(rows.reshape(-1, SIDE, SIDE, 3), 4, SOURCE),
        dataset=None,
        split="test",
        max_drop=0.01,
        force=False,
        command="",
    )
    assert set(changed.manifest.artifacts) == {"clip"}
    assert [row["precision"] for row in report["latency"]] == ["fp32"]
    assert "No INT8: nothing in the network is meant for INT8" in (changed.path / "report.md").read_text()


def transposed(bundle: Bundle) -> Bundle:
    """The bundle with its convolution written as a transposed one, which INT8 is not meant for: at stride 1 the same with its kernel turned."""
    model = onnx.load(bundle.file("clip"))
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    convolution.op_type = "ConvTranspose"
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == convolution.input[1])
    turned = np.flip(numpy_helper.to_array(kernel), (2, 3, 4)).swapaxes(0, 1)
    kernel.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(turned), kernel.name))
    data = model.SerializeToString()
    entry = artifact(data, "clip.onnx", precision="fp32", weights="float32")
    manifest = bundle.manifest.model_copy(update={"artifacts": {"clip": entry}})
    return rewrite_bundle(bundle, manifest, {"clip.onnx": data})
