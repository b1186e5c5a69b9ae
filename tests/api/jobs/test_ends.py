"""A job that runs can be cancelled, and no end of the process loses one."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from service.bundle.store import Bundle
from tests.api.conftest import COLORS
from tests.api.jobs.conftest import FINE, ended, post, refused, result
from tests.conftest import Served

Make = Callable[..., bytes]
Serve = Callable[..., Any]


def test_a_job_that_runs_can_be_read_cancelled_and_then_removed(
    running: Served, long_video: bytes, make_video: Make, folder: Path
) -> None:
    job = post(running, long_video, **FINE)
    waiting = post(running, make_video("red"))
    while (partly := running.client.get(f"{job}/segments").json())["total"] == 0:
        pass
    assert (partly["state"], partly["complete"]) == ("running", False)
    assert partly["segments"][0]["predictions"][0]["label"] == "red"
    answer = running.client.get(job).json()
    assert 0 < answer["progress"] < 1
    assert 0 < answer["looked_s"] < 3_600
    refused(running.client.get(f"{job}/result"), 409, "job_conflict", "the job is running")
    assert running.client.get(waiting).json()["state"] == "queued"

    cancelled = running.client.delete(job)
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert cancelled.json()["finished"]
    kept = running.client.get(f"{job}/segments").json()
    assert (kept["complete"], kept["segments"][0]) == (True, partly["segments"][0])
    assert ended(running, waiting)["state"] == "done", "the next one has its turn"
    while list((folder / "files").iterdir()):
        pass  # the video of a job that has ended is removed
    assert running.client.get(job).json()["state"] == "cancelled"
    assert running.client.delete(job).status_code == 204
    assert running.client.get(job).status_code == 404


def test_no_end_of_the_process_loses_a_job_and_none_is_begun_anew(
    serve: Serve,
    color_bundle: Bundle,
    make_bundle: Callable[..., Bundle],
    long_video: bytes,
    make_video: Make,
    tmp_path: Path,
) -> None:
    """Killed in the middle, told to stop in the middle, and taken up again: what is found is what one run would find."""
    state, served = {"MAREY_JOBS": str(tmp_path / "jobs")}, str(color_bundle.path)
    brief = make_bundle(tmp_path / "brief", name="brief")
    with serve(served, str(brief.path), exit_code=-signal.SIGKILL, **state) as running:
        job = post(running, long_video, **FINE)
        unserved = post(running, make_video("red"), model="brief")
        while running.client.get(job).json()["segments"] < 20:
            pass
        running.process.kill()
        running.process.wait()
    before = _windows(tmp_path / "jobs")
    assert before > 0
    with serve(served, **state) as running:
        answer = running.client.get(job).json()
        assert answer["state"] in ("queued", "running")
        assert answer["segments"] >= 20
        while (now := running.client.get(job).json())["segments"] < answer["segments"] + 20:
            assert now["state"] == "running" or now["segments"] == answer["segments"]
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=30) == 0
    assert _state(tmp_path / "jobs") == "queued"
    between = _windows(tmp_path / "jobs")
    with serve(served, **state) as running:
        found = result(running, job)
        ran = running.client.get("/metrics").text
        answer = running.client.get(unserved).json()
        assert answer["state"] == "queued"
        assert answer["waiting_for"] == "model brief:1.0.0 is not served; it runs once that is loaded"
        (heads,) = (
            float(line.split()[1]) for line in ran.splitlines() if line.startswith('marey_batch_rows_sum{stage="head"}')
        )
    windows = found["sampling"]["windows"]
    assert windows == 35_996
    assert heads == pytest.approx(windows - between, abs=64), "what was found before is not computed again"
    assert 0 < before < between < windows
    segments = found["segments"]
    # A color every 7 s, and windows of five frames: the border lies where the third is the first of the new color.
    assert [each["predictions"][0]["label"] for each in segments] == [list(COLORS)[i % 3] for i in range(len(segments))]
    assert len(segments) == 515
    assert (segments[0]["start_s"], segments[-1]["end_s"]) == (0, 3_600)
    assert all(one["end_s"] == two["start_s"] for one, two in pairwise(segments))
    assert all(each["start_s"] == pytest.approx(7 * i, abs=0.11) for i, each in enumerate(segments))
    assert sum(each["windows"] for each in segments) == windows


def _read(folder: Path, column: str) -> Any:
    with sqlite3.connect(folder / "jobs.sqlite3") as connection:
        (value,) = connection.execute(f"SELECT {column} FROM jobs ORDER BY number").fetchone()
    connection.close()
    return value


def _windows(folder: Path) -> int:
    return int(_read(folder, "windows"))


def _state(folder: Path) -> str:
    return str(_read(folder, "state"))
