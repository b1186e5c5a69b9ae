"""The cache of engines: what is read again is what was written, by us, for the very same machine and graphs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.engine.cache import EngineAbsent, EngineCache, EngineKey
from service.engine.verified import EngineRefused
from service.errors import EngineError

KEY = EngineKey(
    bundle="color",
    precision="int8",
    onnx={"encoder": "a" * 64, "head": "b" * 64},
    calibration="c" * 64,
    tensorrt="TensorRT 11.4.0",
    gpu="NVIDIA H200",
    compute_capability="9.0",
    profiles={"encoder": [{"frames": [(1, 8), (2, 8), (4, 8)]}]},
    flags={"tf32": False},
)
FILES = {"encoder.plan": b"encoder", "head.plan": b"head"}
NAMES = tuple(FILES)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    made = EngineCache(tmp_path / "engines")
    made.save(KEY, FILES)
    return made


def test_what_was_saved_is_loaded_and_stands_under_gpu_and_tensorrt(cache: EngineCache) -> None:
    assert cache.load(KEY, NAMES) == FILES
    assert cache.folder(KEY).name.startswith("nvidia-h200-tensorrt-11.4.0-")
    assert not list(cache.root.glob(".building*"))


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        ({"gpu": "NVIDIA A100"}, "gpu NVIDIA H200 (here it is NVIDIA A100)"),
        ({"tensorrt": "TensorRT 11.5.0"}, "TensorRT 11.4.0 (here it is TensorRT 11.5.0)"),
        ({"onnx": {"encoder": "d" * 64, "head": "b" * 64}}, "another ONNX graph"),
        ({"calibration": None}, "another calibration"),
        ({"flags": {"tf32": True}}, "flags"),
        ({"profiles": {}}, "other profiles"),
    ],
)
def test_an_engine_for_anything_else_is_refused_with_the_difference(
    cache: EngineCache, change: dict[str, object], saying: str
) -> None:
    with pytest.raises(EngineRefused) as refusal:
        cache.load(replace(KEY, **change), NAMES)  # type: ignore[arg-type]
    assert saying in str(refusal.value)


def test_an_engine_under_the_name_of_another_is_refused(cache: EngineCache) -> None:
    other = replace(KEY, gpu="NVIDIA A100")
    cache.folder(KEY).rename(cache.folder(other))
    with pytest.raises(EngineRefused, match=r"encoder.plan was built for gpu NVIDIA H200 \(here it is NVIDIA A100\)"):
        cache.load(other, NAMES)


@pytest.mark.parametrize("text", ["null", "5", "[]", "{}", '{"key": null}', '{"key": []}', "[" * 100_000, "\x00"])
def test_odd_sidecars_of_others_do_not_stop_the_search(cache: EngineCache, text: str) -> None:
    (odd := cache.root / "odd").mkdir()
    (odd / "encoder.plan.json").write_text(text)
    assert cache.load(KEY, NAMES) == FILES
    with pytest.raises(EngineAbsent, match="none is cached for other int8"):
        cache.load(replace(KEY, bundle="other"), NAMES)


@pytest.fixture
def open_umask() -> Iterator[None]:
    former = os.umask(0)
    yield
    os.umask(former)


@pytest.mark.usefixtures("open_umask")
def test_what_is_saved_under_an_open_umask_is_read_again(tmp_path: Path) -> None:
    made = EngineCache(tmp_path / "engines")
    made.save(KEY, FILES)
    assert made.load(KEY, NAMES) == FILES


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["", "encoder.plan", "head.plan.json"])
def test_what_belongs_to_somebody_else_is_refused(cache: EngineCache, what: str) -> None:
    os.chown(cache.folder(KEY) / what, 4242, -1)
    with pytest.raises(EngineRefused, match="belongs to user 4242"):
        cache.load(KEY, NAMES)


@pytest.mark.parametrize("what", ["", "encoder.plan", "head.plan.json"])
def test_a_link_is_refused(cache: EngineCache, tmp_path: Path, what: str) -> None:
    path = cache.folder(KEY) / what
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineRefused):
        cache.load(KEY, NAMES)
    cache.save(KEY, FILES)
    assert cache.load(KEY, NAMES) == FILES


def test_a_killed_build_leaves_nothing_that_stays(cache: EngineCache) -> None:
    (left := cache.root / ".building").mkdir()
    (left / "encoder.plan").write_bytes(b"half")
    cache.save(KEY, FILES)
    assert not left.exists()


def test_many_writers_at_once_leave_one_whole_engine(cache: EngineCache) -> None:
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(20):
                EngineCache(cache.root).save(KEY, FILES)
                cache.add(KEY, "encoder.kernels", b"kernels")
                cache.keep_timings(KEY, b"timings")
        except BaseException as error:  # noqa: BLE001  # told below
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert cache.load(KEY, NAMES) == FILES
    assert cache.timings(KEY) == b"timings"


def test_a_place_that_cannot_be_written_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        EngineError, match=r"cannot be kept in .*set MAREY_ENGINE_CACHE to a folder that can be written"
    ):
        EngineCache(tmp_path / "file" / "engines").save(KEY, FILES)


def test_a_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert EngineCache(Path("~/engines")).root == tmp_path / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert EngineCache().root == tmp_path / ".cache" / "marey" / "engines"
