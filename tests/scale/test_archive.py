"""`marey classify-archive` as a user runs it, on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bundle.store import Bundle
from tests.conftest import ROOT

Make = Callable[..., bytes]
WHOLE_S = 200
FIGHT = ROOT / "models" / "bundles" / "fight"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "service", "classify-archive", *map(str, arguments)]


def variables(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "MAREY_LOG_LEVEL": "error", **more}


def archive(*arguments: str | Path, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=WHOLE_S, env=variables(), check=False
    )
    assert done.returncode == exit_code, done.stderr
    return done


def rows(out: Path) -> list[dict[str, Any]]:
    table: pa.Table = pq.read_table(out)
    return table.to_pylist()


@pytest.fixture
def folder(tmp_path: Path, make_video: Make, make_picture: Make) -> Path:
    """Nine files of which two fail."""
    files = {f"{color}-{number}.mp4": make_video(color, frames=12) for color in ("red", "green") for number in (1, 2)}
    files |= {"blue.jpg": make_picture("blue"), "deep/red.png": make_picture("red", suffix=".png")}
    files |= {
        "two.mp4": make_video("red", "blue", frames=20),
        "broken.mp4": make_video("red")[:200],
        "notes.txt": b"notes",
    }
    for name, content in files.items():
        path = tmp_path / "archive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "archive"


def test_every_file_has_its_row_and_those_that_fail_are_listed_and_not_fatal(
    folder: Path, color_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "results.parquet"
    common = (folder, "--out", out, "--bundle", color_bundle.path, "--window-s", "1", "--json")
    done = archive(*common)
    assert json.loads(done.stdout) == {"out": str(out), "files": 9, "new": 9, "gone": 0, "failed": 2}
    found = {Path(each["path"]).name: each for each in rows(out)}
    assert {name: each["label"] for name, each in found.items()} == {
        "red-1.mp4": "red", "red-2.mp4": "red", "green-1.mp4": "green", "green-2.mp4": "green", "blue.jpg": "blue",
        "red.png": "red", "two.mp4": found["two.mp4"]["label"], "broken.mp4": None, "notes.txt": None,
    }  # fmt: skip
    assert [each["predictions"][0]["label"] for each in found["two.mp4"]["segments"]] == ["red", "blue"]
    assert found["notes.txt"]["error_code"] == "unsupported_media"
    assert f"failed: {folder / 'notes.txt'}: " in done.stderr

    # Once more: nothing is new, and Ray need not even start.
    assert json.loads(archive(*common).stdout) == {"out": str(out), "files": 9, "new": 0, "gone": 0, "failed": 2}
    # What was changed, or is new, or failed and is asked for again, is looked at.
    (folder / "broken.mp4").write_bytes((folder / "red-1.mp4").read_bytes())
    (folder / "blue.jpg").rename(folder / "new.jpg")
    done = archive(*common, "--retry")
    assert json.loads(done.stdout) == {"out": str(out), "files": 10, "new": 3, "gone": 1, "failed": 1}
    assert {Path(each["path"]).name: each["label"] for each in rows(out)}["broken.mp4"] == "red"


def test_what_was_killed_goes_on_where_it_stood(color_bundle: Bundle, tmp_path: Path, make_video: Make) -> None:
    folder, out = tmp_path / "archive", tmp_path / "results.parquet"
    folder.mkdir()
    long = make_video("red", "green", "blue", frames=300)
    for number in range(160):
        (folder / f"{number:03}.mp4").write_bytes(long)
    asked = command(folder, "--out", out, "--bundle", color_bundle.path, "--window-s", "1", "--json")
    with subprocess.Popen(asked, env=variables(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        parts = out.with_name("results.parquet.parts")
        until = time.monotonic() + WHOLE_S
        while not list(parts.glob("part-*.parquet")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    kept = sum(len(rows(part)) for part in parts.glob("part-*.parquet"))
    assert 0 < kept < 160
    done = json.loads(archive(folder, "--out", out, "--bundle", color_bundle.path, "--window-s", "1", "--json").stdout)
    assert done == {"out": str(out), "files": 160, "new": 160 - kept, "gone": 0, "failed": 0}
    found = rows(out)
    assert len({each["path"] for each in found}) == len(found) == 160
    assert {each["answer"] for each in found} == {found[0]["answer"]}
    assert not parts.exists()


@pytest.fixture(scope="module")
def single(data: Path) -> list[dict[str, Any]]:
    """What one process says of each clip, in the order of their paths."""
    clips = sorted(path for path in (data / "surveillance_fight" / "videos").rglob("*") if path.is_file())
    done = subprocess.run(
        [sys.executable, "-m", "service", "classify", "--bundle", FIGHT, "--json", *clips],
        capture_output=True, text=True, check=True, env=variables(), timeout=WHOLE_S,
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.data
@pytest.mark.parametrize("apart", [(), ("--engines", "1", "--workers", "2")], ids=["together", "apart"])
def test_all_clips_of_fights_get_the_answers_of_a_single_process(
    data: Path, single: list[dict[str, Any]], tmp_path: Path, apart: tuple[str, ...]
) -> None:
    out = tmp_path / "results.parquet"
    archive(data / "surveillance_fight" / "videos", "--out", out, "--bundle", FIGHT, *apart)
    found = rows(out)
    assert [each["path"] for each in found] == [each["file"] for each in single]
    assert len(found) == 234
    for one, other in zip(found, single, strict=True):
        answer = json.loads(one["answer"])
        assert {name: value for name, value in answer.items() if name != "predictions"} == {
            name: other[name] for name in answer if name != "predictions"
        }
        said = {each["label"]: each["probability"] for each in one["predictions"]}
        # INT8 is the same in every batch; what is left is the rounding of six digits.
        assert said == pytest.approx({each["label"]: each["probability"] for each in other["predictions"]}, abs=2e-6)
