"""What is in the cache is loaded only if it is the very engine that is asked for; else it is built anew, and a line says why."""

from __future__ import annotations

import json
import logging
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from service.bundle.store import Bundle, open_bundle, rewrite_bundle, sha256
from service.engine.base import Place
from service.engine.golden import prove

Open = Callable[..., Any]


@pytest.fixture
def cached(fight: Bundle, place: Place, opening: Open, engines: Path, tmp_path: Path) -> Place:
    """A cache of this test's own that holds the INT8 engine of `fight`."""
    with opening(fight, "int8"):
        pass
    own = tmp_path / "engines"
    shutil.copytree(engines, own)
    return replace(place, engine_cache=own)


def folder_of(place: Place) -> Path:
    """Where the INT8 engine of `fight` lies."""
    assert place.engine_cache is not None
    (found,) = (
        sidecar.parent
        for sidecar in place.engine_cache.glob("*/encoder.plan.json")
        if (key := json.loads(sidecar.read_text())["key"])["bundle"] == "fight" and key["precision"] == "int8"
    )
    return found


@contextmanager
def listening(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The lines about engines, INFO and above, that are written meanwhile."""
    caplog.clear()
    lines: list[str] = []
    with caplog.at_level(logging.INFO, logger="service.engine"):
        yield lines
    lines += [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.INFO]


def reasons(lines: list[str]) -> list[str]:
    return [line for line in lines if "a TensorRT engine is built" in line]


def test_the_second_opening_builds_nothing(
    fight: Bundle, cached: Place, opening: Open, caplog: pytest.LogCaptureFixture, record: Callable[..., None]
) -> None:
    plan = folder_of(cached) / "encoder.plan"
    before = plan.stat().st_mtime_ns
    with listening(caplog) as lines, opening(fight, "int8", at=cached) as engine:
        assert prove(engine, fight) <= fight.manifest.golden.tolerance["int8"]
    record(lines_when_cached=lines)
    assert not reasons(lines)
    assert not any("engine built" in line for line in lines)
    assert plan.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["encoder.plan", "head.plan"])
def test_one_flipped_byte_is_refused_and_the_engine_built_anew(
    name: str, fight: Bundle, cached: Place, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    plan = folder_of(cached) / name
    whole = plan.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    plan.write_bytes(damaged)
    with listening(caplog) as lines, opening(fight, "int8", at=cached) as engine:
        assert prove(engine, fight) <= fight.manifest.golden.tolerance["int8"]
    (reason,) = reasons(lines)
    assert f"{name} has sha256 {sha256(bytes(damaged))[:12]}…" in reason
    assert "changed or damaged" in reason
    sidecar = json.loads(plan.with_name(f"{name}.json").read_text())
    assert sidecar["sha256"] == sha256(plan.read_bytes()) != sha256(bytes(damaged))
    with listening(caplog) as lines, opening(fight, "int8", at=cached):
        pass
    assert not reasons(lines)


@pytest.mark.parametrize(
    ("field", "foreign"),
    [("gpu", "NVIDIA of another kind"), ("tensorrt", "TensorRT 1.2.3"), ("compute_capability", "3.5")],
)
def test_an_engine_of_another_machine_is_refused_and_built_anew(
    field: str, foreign: str, fight: Bundle, cached: Place, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Both where its sidecar says so in our own folder, and where it lies in the folder of the other machine."""
    folder = folder_of(cached)
    for sidecar in folder.glob("*.plan.json"):
        content = json.loads(sidecar.read_text())
        content["key"][field] = foreign
        sidecar.write_text(json.dumps(content))
    shutil.copytree(folder, folder.with_name("of-another-machine"))
    with listening(caplog) as lines, opening(fight, "int8", at=cached) as engine:
        assert prove(engine, fight) <= fight.manifest.golden.tolerance["int8"]
    (reason,) = reasons(lines)
    assert f"{field} {foreign} (here it is " in reason
    shutil.rmtree(folder)
    with listening(caplog) as lines, opening(fight, "int8", at=cached):
        pass
    (told,) = (line for line in lines if "built" in line and foreign in line)
    assert f"the cached one was built for {field} {foreign}" in told
    assert (folder / "encoder.plan").is_file()


def test_a_changed_graph_is_another_engine(
    fight: Bundle, cached: Place, opening: Open, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    shutil.copytree(fight.path, tmp_path / "fight")
    copy = open_bundle(tmp_path / "fight")
    model = onnx.load(copy.file("encoder.int8"))
    model.doc_string = "changed"
    data = model.SerializeToString()
    entry = copy.artifact("encoder.int8").model_copy(update={"sha256": sha256(data), "bytes": len(data)})
    artifacts = {**copy.manifest.artifacts, "encoder.int8": entry}
    changed = rewrite_bundle(copy, copy.manifest.model_copy(update={"artifacts": artifacts}), {entry.file: data})
    before = folder_of(cached)
    with listening(caplog) as lines, opening(changed, "int8", at=cached) as engine:
        assert prove(engine, changed) <= changed.manifest.golden.tolerance["int8"]
    assert any("the cached one was built for another ONNX graph" in line for line in lines)
    assert before.is_dir(), "the other bundle may still be served"


def test_a_plan_that_everybody_may_write_is_refused(
    fight: Bundle, cached: Place, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    plan = folder_of(cached) / "encoder.plan"
    plan.chmod(0o666)
    with listening(caplog) as lines, opening(fight, "int8", at=cached):
        pass
    (reason,) = reasons(lines)
    assert "can be written by everybody on this machine; chmod o-w" in reason
    assert not (folder_of(cached) / "encoder.plan").stat().st_mode & stat.S_IWOTH


def test_nothing_is_written_into_a_bundle_that_is_read_only(
    fight: Bundle, cached: Place, opening: Open, tmp_path: Path
) -> None:
    shutil.copytree(fight.path, tmp_path / "read-only")
    bundle = open_bundle(tmp_path / "read-only")
    before = sorted((file.name, file.stat().st_mtime_ns) for file in bundle.path.iterdir())
    bundle.path.chmod(0o555)
    shutil.rmtree(folder_of(cached))
    try:
        with opening(bundle, "int8", at=cached) as engine:
            assert prove(engine, bundle) <= bundle.manifest.golden.tolerance["int8"]
    finally:
        bundle.path.chmod(0o755)
    assert sorted((file.name, file.stat().st_mtime_ns) for file in bundle.path.iterdir()) == before
    assert (folder_of(cached) / "encoder.plan").is_file()


def test_where_the_cache_cannot_be_written_the_engine_runs_and_a_line_says_what_to_set(
    fight: Bundle, place: Place, opening: Open, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A file in the way stops even root, whom permissions do not."""
    (tmp_path / "in-the-way").write_text("")
    nowhere = replace(place, engine_cache=tmp_path / "in-the-way" / "engines")
    with listening(caplog) as lines, opening(fight, "int8", at=nowhere) as engine:
        assert prove(engine, fight) <= fight.manifest.golden.tolerance["int8"]
    assert any("the next start will take as long as this one" in line for line in lines)
    assert any("set MAREY_ENGINE_CACHE to a folder that can be written" in line for line in lines)
    assert [file.name for file in tmp_path.iterdir()] == ["in-the-way"]
