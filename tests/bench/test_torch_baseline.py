"""The torch baseline proves itself before it is timed, and stands in the same tables as the engines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from service.bench.torch_baseline import TorchSubject, torch_precisions
from service.bundle.store import Bundle, open_bundle, rewrite_bundle, sha256
from service.cli import main
from service.engine.base import Place
from service.errors import EngineError
from tests.clip_bundle import make_clip_bundle, said

pytest.importorskip("torch", reason="the baseline needs torch, which is no dependency; pip install torch")
PLACE = Place(threads=1)


@pytest.fixture
def mixed_up(shipped: Bundle, tmp_path: Path) -> Bundle:
    """The shipped bundle with an encoder that reads BGR."""
    copy = open_bundle(shutil.copytree(shipped.path, tmp_path / "copy"))
    model = onnx.load(copy.file("encoder"))
    model.graph.node.insert(0, onnx.helper.make_node("Gather", ["frames", "order"], ["turned"], axis=3))
    reader = next(node for node in model.graph.node[1:] if "frames" in node.input)
    reader.input[list(reader.input).index("frames")] = "turned"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 1, 0]), "order"))
    data = model.SerializeToString()
    artifact = copy.artifact("encoder").model_copy(update={"sha256": sha256(data), "bytes": len(data)})
    manifest = copy.manifest.model_copy(update={"artifacts": {**copy.manifest.artifacts, "encoder": artifact}})
    return rewrite_bundle(copy, manifest, {"encoder.onnx": data})


def test_torch_stands_beside_the_engines_with_its_own_ratios(shipped: Bundle) -> None:
    engines = ["--engine", "torch", "--engine", "openvino", "--batch", "1"]
    arguments = [*engines, "--seconds", "0.05", "--rounds", "2", "--threads", "1"]
    result = CliRunner().invoke(main, ["bench", str(shipped.path), *arguments, "--json", "-"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    names = [(each["engine"], each["precision"]) for each in report["runners"]]
    assert names == [("torch", "fp32"), ("torch", "bf16"), ("openvino", "int8"), ("openvino", "fp32")]
    assert report["runners"][0]["golden_difference"] < 1e-4
    assert 1e-4 < report["runners"][1]["golden_difference"] < 0.1, "bf16 rounds"
    bf16 = next(each for each in report["configurations"] if each["runner"] == 1 and each["what"] == "encoder")
    assert bf16["times_as_fast"].keys() == {"fp32"}


def test_a_baseline_that_computes_something_else_is_refused(mixed_up: Bundle) -> None:
    with pytest.raises(EngineError, match="torch at fp32 differs from the float reference of fight by"):
        TorchSubject(mixed_up, precision="fp32", place=PLACE, mode="eager")


def test_its_tasks_give_the_golden_probabilities(shipped: Bundle) -> None:
    subject = TorchSubject(shipped, precision="fp32", place=PLACE, mode="auto")
    assert subject.runner.notes == ("eager",)
    golden = shipped.golden()
    for clip, wanted in zip(golden.frames, golden.probabilities, strict=True):
        np.testing.assert_allclose(subject.clip(clip).run()[0], wanted, atol=1e-4)
        features = subject.features(clip)
        np.testing.assert_allclose(subject.head(features[None]).run()[0], wanted, atol=1e-4)
        np.testing.assert_allclose(subject.entry(clip).run(), features, atol=1e-4)


def test_a_precision_that_torch_does_not_run_is_an_error_with_the_remedy() -> None:
    with pytest.raises(EngineError, match="torch is not measured at int8 here; leave --precision out"):
        torch_precisions(("int8",))


@pytest.mark.parametrize("frames", [None, 5])
def test_a_clip_network_has_a_baseline_too(tmp_path: Path, frames: int | None) -> None:
    bundle = make_clip_bundle(tmp_path / "motion", frames=frames, positions="steps")
    clips = np.random.default_rng(0).integers(0, 256, (3, frames or 6, 16, 16, 3), np.uint8)
    for precision, limit in (("fp32", 1e-4), ("bf16", 0.05)):
        subject = TorchSubject(bundle, precision=precision, place=PLACE, mode="eager")
        wanted = said(clips)["probabilities"]
        np.testing.assert_allclose(subject.entry(clips).run(), wanted, atol=limit)
        np.testing.assert_allclose(subject.clip(clips[0]).run()[0], wanted[0], atol=limit)
        subject.close()
