"""Clip networks on the TensorRT engine, on a stand-in GPU: one plan, one key, and the shapes that a clip network meets."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from models.export.gate import build_gate
from service.bundle.manifest import Role
from service.bundle.store import Bundle
from service.engine.base import Place
from service.engine.golden import probabilities, prove, warm
from service.engine.network import SLOTS
from service.engine.profiles import profiles_of
from service.engine.trt import TensorRtEngine
from service.errors import EngineError
from tests.clip_bundle import SIDE, make_clip_bundle, said

RTX, FULL = pytest.mark.standin, pytest.mark.standin(flavour="tensorrt", STANDIN_ORDER="racing")
EVERYWHERE = pytest.mark.parametrize("everywhere", [pytest.param("rtx", marks=RTX), pytest.param("full", marks=FULL)])


@pytest.fixture(scope="module")
def clip_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_clip_bundle(tmp_path_factory.mktemp("clips") / "motion", positions="steps", int8=4)


@pytest.fixture(scope="module")
def fixed_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_clip_bundle(tmp_path_factory.mktemp("clips") / "fixed", frames=16, positions="places", int8=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def opened(bundle: Bundle, cache: Path, precision: str = "fp32") -> TensorRtEngine:
    return TensorRtEngine(bundle, precision=precision, place=Place(1, engine_cache=cache))  # type: ignore[arg-type]


def clips_of(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(batch * 100 + length).integers(0, 256, (batch, length, SIDE, SIDE, 3), np.uint8)


@EVERYWHERE
def test_clips_of_any_batch_and_length_get_what_numpy_computes(
    clip_bundle: Bundle, cache: Path, everywhere: str
) -> None:
    with closing(opened(clip_bundle, cache)) as engine:
        assert engine.info.stages == ("clip",)
        assert engine.info.max_batch == 16, "64 frames pay, and a clip has 4 as a rule"
        warm(engine, clip_bundle, buckets=(1, 16))
        for batch, length in ((1, 1), (16, 1), (2, 7), (16, 4), (3, 4), (1, 8), (16, 8), (37, 2)):
            clips = clips_of(batch, length)
            found, expected = engine.run("clip", clips), said(clips)
            assert {name: array.shape for name, array in found.items()} == {
                "probabilities": (batch, 5),
                "attention": (batch, length),
                "positions": (batch, length, 5),
            }
            for name, array in found.items():
                assert array == pytest.approx(expected[name], abs=1e-5), (name, batch, length)


@EVERYWHERE
def test_a_network_of_fixed_length_has_a_cuda_graph_for_each_batch_of_clips(
    fixed_bundle: Bundle, cache: Path, everywhere: str
) -> None:
    with closing(opened(fixed_bundle, cache)) as engine:
        assert engine.info.max_batch == 4
        assert engine.cuda_graphs == SLOTS * 3, "batches of 1, 2 and 4"
        for batch in (1, 2, 3, 4, 5, 11):
            clips = clips_of(batch, 16)
            expected = said(clips, where="places")
            for name, array in engine.run("clip", clips).items():
                assert array == pytest.approx(expected[name], abs=1e-5), (name, batch)
        with pytest.raises(EngineError, match=r"takes no rows \[1, 8, 16, 16, 3\], at most \[4, 16, 16, 16, 3\]"):
            engine.run("clip", clips_of(1, 8))


@EVERYWHERE
def test_one_plan_with_one_key_is_built_kept_and_found_again(
    clip_bundle: Bundle, tmp_path: Path, everywhere: str, held, caplog: pytest.LogCaptureFixture
) -> None:
    for start in range(2):
        caplog.clear()
        with caplog.at_level("INFO"), closing(opened(clip_bundle, tmp_path)) as engine:
            assert prove(engine, clip_bundle) <= 1e-4
        assert ("engine built in" in caplog.text) == (start == 0)
        assert held() == {}
    (plan,) = tmp_path.glob("*/*.plan")
    assert plan.name == "clip.plan"
    key = json.loads(plan.with_name("clip.plan.json").read_text())["key"]
    assert key["onnx"] == {"clip": clip_bundle.artifact("clip").sha256}
    assert list(key["profiles"]) == ["clip"]


@RTX
@pytest.mark.parametrize(("precision", "limit"), [("fp16", 5e-3), ("int8", 2e-2)])
@pytest.mark.parametrize("which", ["clip_bundle", "fixed_bundle"])
def test_a_clip_network_is_cast_to_half_and_runs_in_int8(
    which: str, precision: str, limit: float, cache: Path, request: pytest.FixtureRequest
) -> None:
    bundle = request.getfixturevalue(which)
    with closing(opened(bundle, cache, precision)) as engine:
        assert (engine.info.precision, engine.info.float_precision) == (precision, "fp16")
        clips = clips_of(3, bundle.manifest.sampling.frames)
        difference = np.abs(probabilities(engine, clips) - said(clips)["probabilities"]).max()
        assert 0 < difference < limit


@pytest.mark.parametrize("which", ["clip_bundle", "fixed_bundle"])
@pytest.mark.parametrize(("role", "half"), [("clip", False), ("clip", True), ("clip.int8", True)])
def test_tensorrt_rtx_builds_the_very_profiles(
    which: str, role: Role, half: bool, request: pytest.FixtureRequest
) -> None:
    bundle = request.getfixturevalue(which)
    profiles = profiles_of(bundle.manifest, "clip")
    gate = build_gate(bundle.file(role).read_bytes(), profiles=profiles, half=half)  # refuses INT8 that runs in float
    assert len(gate.int8) == (role == "clip.int8")
