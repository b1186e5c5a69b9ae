"""`marey bench BUNDLE`: what runs is measured, what does not is listed with its reason, mistakes are one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from service.bundle.store import Bundle
from service.cli import main
from tests.clip_bundle import make_clip_bundle

QUICK = ("--seconds", "0.05", "--rounds", "2", "--threads", "1")


def bench(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def measured(color_bundle: Bundle) -> dict[str, object]:
    """Of OpenVINO and onnxruntime at batches 1 and 4."""
    engines = ("--engine", "openvino", "--engine", "onnxruntime")
    return json.loads(bench(color_bundle.path, *QUICK, *engines, "--batch", 4, "--batch", 1, "--json", "-").stdout)


def test_each_engine_is_measured_on_every_task(measured: dict) -> None:
    assert [each["engine"] for each in measured["runners"]] == ["openvino", "onnxruntime"]
    tasks = [(each["runner"], each["what"], each["clips"], each["frames"]) for each in measured["configurations"]]
    assert sorted(tasks) == sorted(
        (runner, *task)
        for runner in (0, 1)
        for task in (("encoder", 1, 1), ("encoder", 4, 1), ("head", 1, 4), ("head", 16, 4), ("whole clip", 1, 4))
    )


def test_the_figures_fit_each_other(measured: dict) -> None:
    for each in measured["configurations"]:
        times = each["milliseconds"]
        assert 0 < times["min"] <= times["p50"] <= times["p90"] <= times["p95"] <= times["p99"]
        assert times["n"] >= 2
        rows = each["clips"] * each["frames"]
        assert each["frames_per_s"] == pytest.approx(rows / times["mean"] * 1000, rel=0.05, abs=0.01)
        assert each["noise"] >= 0


def test_the_document_says_what_it_was_measured_on(measured: dict) -> None:
    assert (measured["schema_version"], measured["kind"], measured["bundle"]) == (1, "engines", "color 1.0.0")
    assert (measured["threads"], measured["rounds"], measured["seconds"]) == (1, 2, 0.05)
    machine = measured["machine"]
    assert machine["cores"] >= 1
    assert machine["cpu"]
    assert {"openvino", "onnxruntime", "numpy"} <= set(machine["packages"])


def test_the_table_says_the_same_and_the_file_is_written(color_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    result = bench(color_bundle.path, *QUICK, "--engine", "openvino", "--batch", 2, "--json", file)
    (encoder,) = [each for each in json.loads(file.read_text())["configurations"] if each["what"] == "encoder"]
    lines = result.stdout.splitlines()
    row = lines[lines.index("encoder: 2 frames") + 2].split()
    assert row[:2] == ["openvino", "fp32"]
    assert float(row[2]) == pytest.approx(encoder["milliseconds"]["p50"], abs=0.006)
    assert int(row[8]) == encoder["milliseconds"]["n"]


def test_int8_is_compared_with_fp32_of_the_same_engine(shipped: Bundle) -> None:
    report = json.loads(bench(shipped.path, *QUICK, "--engine", "openvino", "--batch", 1, "--json", "-").stdout)
    by_precision = {
        report["runners"][each["runner"]]["precision"]: each
        for each in report["configurations"]
        if each["what"] == "encoder"
    }
    ratio = by_precision["int8"]["times_as_fast"]["fp32"]
    assert ratio > 1
    assert by_precision["fp32"]["times_as_fast"]["int8"] == pytest.approx(1 / ratio, rel=0.3)
    assert all(0 < each["golden_difference"] < 0.1 for each in report["runners"])


def test_what_does_not_run_here_is_listed_with_its_reason(color_bundle: Bundle) -> None:
    wanted = ("--engine", "onnxruntime", "--precision", "fp32", "--precision", "int8", "--precision", "fp16")
    report = json.loads(bench(color_bundle.path, *QUICK, *wanted, "--batch", 1, "--json", "-").stdout)
    assert [each["precision"] for each in report["runners"]] == ["fp32"]
    reasons = {each["precision"]: each["reason"] for each in report["refused"]}
    assert reasons.keys() == {"int8", "fp16"}
    assert reasons["fp16"].startswith("onnxruntime runs the float graphs only, not fp16"), "and no prefix"
    table = bench(color_bundle.path, *QUICK, *wanted, "--batch", 1).stdout
    assert "not run" in table
    assert reasons["fp16"] in table


def test_a_batch_that_no_engine_takes_is_refused_and_one_that_some_take_is_listed(color_bundle: Bundle) -> None:
    both = ("--engine", "openvino", "--batch", 1, "--batch", 64)
    report = json.loads(bench(color_bundle.path, *QUICK, *both, "--json", "-").stdout)
    assert "a batch of 64 frames exceeds 16" in report["refused"][0]["reason"]
    result = bench(color_bundle.path, *QUICK, "--engine", "openvino", "--batch", 64, code=1)
    assert result.stderr.startswith("error: a batch of 64 frames exceeds 16")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ((), 2, "BUNDLE"),
        (("nowhere",), 1, "nowhere is no bundle: it has no manifest.json"),
        (("BUNDLE", "--engine", "abacus"), 2, "there is no engine 'abacus'; choose from"),
        (("BUNDLE", "--batch", "3"), 2, "'3' is not one of '1', '2', '4'"),
        (("BUNDLE", "--seconds", "0"), 2, "--seconds"),
        (("BUNDLE", "--engine", "onnxruntime", "--precision", "int8"), 1, "holds no INT8 encoder"),
    ],
)
def test_a_mistake_is_one_sentence(color_bundle: Bundle, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    given = [str(color_bundle.path) if each == "BUNDLE" else each for each in arguments]
    assert sentence in bench(*given, code=code).stderr


def test_a_clip_network_is_measured_in_batches_of_clips(tmp_path: Path) -> None:
    bundle = make_clip_bundle(tmp_path / "motion", int8=4)
    document = tmp_path / "figures.json"
    engines = ("--engine", "openvino", "--engine", "onnxruntime")
    result = bench(bundle.path, *QUICK, *engines, "--batch", 1, "--batch", 4, "--batch", 8, "--json", document)
    report = json.loads(document.read_text())
    names = [(each["engine"], each["precision"]) for each in report["runners"]]
    assert names == [("openvino", "int8"), ("openvino", "fp32"), ("onnxruntime", "fp32")]
    tasks = [(each["runner"], each["what"], each["clips"], each["frames"]) for each in report["configurations"]]
    assert sorted(tasks) == sorted((runner, "clip network", clips, 4) for runner in range(3) for clips in (1, 4))
    assert "a batch of 8 clips exceeds 4" in report["refused"][0]["reason"]
    assert "clip network: 4 clips of 4 frames" in result.stdout
