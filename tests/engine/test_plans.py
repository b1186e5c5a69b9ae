"""Engines are built once, and used only where they fit: otherwise they are built anew, and one line says why."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from service.bundle.store import Bundle
from service.engine.base import Place
from service.engine.golden import prove
from service.engine.trt import TensorRtEngine
from service.errors import EngineError

OPEN = """
import json, logging, sys
from pathlib import Path
import standin_trt
from service.bundle.store import open_bundle
from service.engine.base import Place
from service.engine.golden import prove
from service.engine.trt import TensorRtEngine
class Keep(logging.Handler):
    said = []
    def emit(self, record): self.said.append(record.getMessage())
logging.getLogger().addHandler(Keep(logging.WARNING))
bundle, cache, device = open_bundle(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
engine = TensorRtEngine(bundle, precision="fp32", place=Place(1, device=device, engine_cache=cache))
told = {name: getattr(standin_trt.counters, name) for name in ("built", "compiled", "timed")}
told |= {"said": Keep.said, "device": engine.info.device, "difference": prove(engine, bundle)}
engine.close()
print(json.dumps(told))
"""


@pytest.fixture
def opened(machine) -> Callable[..., dict]:
    """Opens a bundle's engine in a process of its own: what was built, and what was said about it."""

    def run(bundle: Path, cache: Path, *, flavour: str = "tensorrt_rtx", device: int = 0, **more: str) -> dict:
        command = [sys.executable, "-W", "error", "-c", OPEN, bundle, cache, str(device)]
        environment = {**os.environ, **machine.variables(flavour, **more)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        told = json.loads(result.stdout)
        assert told["difference"] <= 1e-4
        return told

    return run


@pytest.fixture(scope="module")
def filled(color_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the color bundle's engine."""
    cache = tmp_path_factory.mktemp("filled")
    TensorRtEngine(color_bundle, precision="fp32", place=Place(1, engine_cache=cache)).close()
    return cache


@pytest.mark.parametrize("flavour", ["tensorrt_rtx", "tensorrt"])
def test_an_engine_is_built_once_and_loaded_from_then_on(opened, color_bundle: Bundle, tmp_path: Path, flavour) -> None:
    first = opened(color_bundle.path, tmp_path, flavour=flavour)
    assert (first["built"], first["said"]) == (2, []), "that none was cached is nothing to warn of"
    again = opened(color_bundle.path, tmp_path, flavour=flavour)
    assert (again["built"], again["said"]) == (0, [])
    assert (first["compiled"] > 0, again["compiled"]) == (flavour == "tensorrt_rtx", 0), "nor compiled at run time"


@pytest.mark.parametrize(
    ("machine_now", "saying"),
    [
        ({"STANDIN_NAME": "Other GPU"}, "gpu Stand-in GPU (here it is Other GPU)"),
        ({"STANDIN_CAPABILITY": "10.0"}, "compute_capability 9.0 (here it is 10.0)"),
        ({"STANDIN_TRT_VERSION": "1.8.0.1"}, "(here it is TensorRT-RTX 1.8.0.1)"),
        ({"flavour": "tensorrt"}, "(here it is TensorRT 10.13.3.9)"),
    ],
)
def test_an_engine_of_another_machine_is_built_anew(
    opened, color_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, machine_now: dict[str, str], saying: str
) -> None:
    cache = tmp_path_factory.getbasetemp() / "of-another-machine"
    if not cache.exists():
        opened(color_bundle.path, cache)
    shutil.copytree(cache, mine := tmp_path_factory.mktemp("mine"), dirs_exist_ok=True)
    told = opened(color_bundle.path, mine, **machine_now)
    assert told["built"] == 2
    assert len(told["said"]) == 1, told["said"]
    assert saying in told["said"][0]


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _flip_and_vouch(file: Path) -> None:
    """A damaged plan with a sidecar that vouches for it: TensorRT itself has to find out."""
    _flip(file)
    sidecar = file.with_name(file.name + ".json")
    content = json.loads(sidecar.read_text()) | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    sidecar.write_text(json.dumps(content))


@pytest.mark.standin
@pytest.mark.parametrize(
    ("damage", "saying"),
    [
        pytest.param(lambda folder: _flip(folder / "encoder.plan"), "changed or damaged", id="a byte of the encoder"),
        pytest.param(lambda folder: _flip(folder / "head.plan"), "changed or damaged", id="a byte of the head"),
        pytest.param(lambda folder: _flip(folder / "head.plan.json"), "head.plan", id="a byte of a sidecar"),
        pytest.param(
            lambda folder: _flip_and_vouch(folder / "encoder.plan"), "does not load the plan", id="vouched for"
        ),
        pytest.param(lambda folder: (folder / "head.plan").unlink(), "head.plan is missing", id="half an engine"),
        pytest.param(lambda folder: (folder / "encoder.plan.json").unlink(), "is missing", id="without a sidecar"),
        pytest.param(lambda folder: (folder / "encoder.plan").chmod(0o666), "by everybody", id="open to everybody"),
        pytest.param(lambda folder: folder.chmod(0o777), "by everybody", id="in a folder that is"),
        pytest.param(
            lambda folder: (folder / "head.plan.json").write_text("[" * 100_000), "cannot be read", id="a deep sidecar"
        ),
        pytest.param(
            lambda folder: (folder / "head.plan.json").write_text("null"), "is not one", id="a sidecar of null"
        ),
    ],
)
def test_an_engine_that_was_changed_is_never_loaded(
    color_bundle: Bundle, filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage, saying: str
) -> None:
    import standin_trt  # noqa: PLC0415  # it is there in that process alone

    cache = tmp_path / "cache"
    shutil.copytree(filled, cache)
    (folder,) = (each for each in cache.iterdir() if each.is_dir())
    damage(folder)
    for built, lines in ((2, 1), (0, 0)):
        caplog.clear()
        before = standin_trt.counters.built
        place = Place(1, engine_cache=cache)
        with (
            caplog.at_level(logging.WARNING),
            closing(TensorRtEngine(color_bundle, precision="fp32", place=place)) as engine,
        ):
            assert prove(engine, color_bundle) <= 1e-4
        assert standin_trt.counters.built - before == built
        assert len(caplog.records) == lines, caplog.text
        assert saying in caplog.text or not lines


@pytest.mark.standin
def test_an_engine_that_must_be_kept_and_cannot_be_is_an_error(color_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = Place(1, engine_cache=tmp_path / "file" / "engines")
    TensorRtEngine(color_bundle, precision="fp32", place=place).close()
    with pytest.raises(EngineError, match=r"runs, but it could not be kept in .*set MAREY_ENGINE_CACHE"):
        TensorRtEngine(color_bundle, precision="fp32", place=replace(place, must_keep=True))


@pytest.mark.standin
def test_an_engine_of_a_changed_network_is_built_anew_and_the_former_one_stays(
    make_bundle, filled: Path, color_bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import standin_trt  # noqa: PLC0415  # it is there in that process alone

    shutil.copytree(filled, cache := tmp_path / "cache")
    model = onnx.load(color_bundle.file("encoder"))
    model.doc_string = "trained for another week"
    data = model.SerializeToString()
    made = make_bundle(tmp_path / "changed")
    (made.path / "encoder.onnx").write_bytes(data)
    artifact = made.manifest.artifacts["encoder"].model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    artifacts = {**made.manifest.artifacts, "encoder": artifact}
    changed = Bundle(made.path, made.manifest.model_copy(update={"artifacts": artifacts}))
    before = standin_trt.counters.built
    with caplog.at_level(logging.WARNING):
        TensorRtEngine(changed, precision="fp32", place=Place(1, engine_cache=cache)).close()
    assert standin_trt.counters.built - before == 2
    assert len(caplog.records) == 1
    assert "another ONNX graph" in caplog.text
    TensorRtEngine(color_bundle, precision="fp32", place=Place(1, engine_cache=cache)).close()
    assert standin_trt.counters.built - before == 2


@pytest.mark.standin(flavour="tensorrt")
def test_the_full_library_remembers_how_long_kernels_took(color_bundle: Bundle, filled: Path, tmp_path: Path) -> None:
    import standin_trt  # noqa: PLC0415  # it is there in that process alone

    shutil.copytree(filled, cache := tmp_path / "cache")
    for plan in cache.glob("*/*.plan"):
        plan.unlink()
    built, timed = standin_trt.counters.built, standin_trt.counters.timed
    TensorRtEngine(color_bundle, precision="fp32", place=Place(1, engine_cache=cache)).close()
    assert (standin_trt.counters.built - built, standin_trt.counters.timed - timed) == (2, 0)


def test_bundles_are_never_written_to_and_a_cache_that_cannot_be_written_is_no_obstacle(
    opened, color_bundle: Bundle, tmp_path: Path
) -> None:
    """For root nothing is read-only, so the folders are compared, and a file stands where the cache's folder should be."""
    shutil.copytree(color_bundle.path, bundle := tmp_path / "bundle")
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in bundle.iterdir()}
    bundle.chmod(0o555)
    (tmp_path / "file").write_text("")
    told = opened(bundle, tmp_path / "file" / "cache")
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in bundle.iterdir()} == before
    bundle.chmod(0o755)
    assert told["built"] == 2
    assert any("set MAREY_ENGINE_CACHE to a folder that can be written" in line for line in told["said"])


def test_an_engine_for_the_second_gpu_is_built_for_the_second(opened, color_bundle: Bundle, tmp_path: Path) -> None:
    told = opened(color_bundle.path, tmp_path, STANDIN_GPUS="2", device=1)
    assert (told["built"], told["said"]) == (2, [])
    assert "cuda:1" in told["device"]
