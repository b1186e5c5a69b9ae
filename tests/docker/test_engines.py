"""The one-shot service: engines of every bundle, built once, by the code that serves them; on a stand-in GPU."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import make_color_bundle


def test_engines_are_built_kept_and_not_built_again(script, gpu_machine, tmp_path: Path) -> None:
    bundles, cache = tmp_path / "bundles", tmp_path / "engines"
    bundles.mkdir()
    make_color_bundle(bundles / "color")
    (bundles / "broken").mkdir()
    (bundles / "broken" / "manifest.json").write_text("{}")
    environment = {**gpu_machine, "MAREY_BUNDLES": str(bundles), "MAREY_ENGINE_CACHE": str(cache)}
    first = script("engines.py", **environment)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("color 1.0.0: fp32 on Stand-in GPU (TensorRT-RTX")
    assert "broken gets no engine: " in first.stderr
    plans = {plan: plan.stat().st_mtime_ns for plan in cache.glob("*/*.plan")}
    assert {plan.name for plan in plans} == {"encoder.plan", "head.plan"}
    second = script("engines.py", **environment)
    assert second.returncode == 0
    assert {plan: plan.stat().st_mtime_ns for plan in cache.glob("*/*.plan")} == plans


def test_without_a_gpu_no_engine_is_built_and_the_exit_code_says_so(script, color_bundle, tmp_path: Path) -> None:
    result = script("engines.py", MAREY_BUNDLES=str(color_bundle.path), MAREY_ENGINE_CACHE=str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert "color gets no engine: " in result.stderr.splitlines()[-1]


def test_a_setting_that_is_out_of_range_is_named(script) -> None:
    result = script("engines.py", MAREY_THREADS="0")
    assert result.returncode == 2
    assert result.stderr.startswith("error: MAREY_THREADS = '0': ")
