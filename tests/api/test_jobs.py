"""Jobs over a real server: what they find, who may see them, and that no end of the process loses one."""

from __future__ import annotations

import asyncio
import csv
import io
import signal
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from service import keys
from service.api.app import create_app
from service.bundle.store import Bundle
from service.settings import Settings
from tests.api.conftest import COLORS
from tests.conftest import Served

Make = Callable[..., bytes]
Serve = Callable[..., Any]
Answer = dict[str, Any]

# A window begins at every frame of a long video: thousands of them, so that there is time to interrupt.
FINE = {"window_s": 0.5, "stride_s": 0.1, "frames": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def running(serve: Serve, color_bundle: Bundle, folder: Path) -> Iterator[Served]:
    with serve(str(color_bundle.path), MAREY_JOBS=str(folder), MAREY_MAX_JOB_BYTES=str(2**23)) as served:
        yield served


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A quarter of an hour at 10 frames a second, another color every 7 s."""
    file = tmp_path_factory.mktemp("long") / "long.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    pictures = [np.full((32, 32, 3), color[::-1], np.uint8) for color in COLORS.values()]
    for frame in range(9_000):
        writer.write(pictures[frame // 70 % 3])
    writer.release()
    return file.read_bytes()


def post(served: Served, video: bytes, **query: object) -> str:
    response = served.post("/jobs", video, **query)
    assert response.status_code == 202, response.text
    return response.headers["location"]


def ended(served: Served, job: str) -> Answer:
    while (answer := served.client.get(job).json())["state"] in ("queued", "running"):
        pass
    return answer


def result(served: Served, job: str) -> Answer:
    assert ended(served, job)["state"] == "done", served.client.get(job).text
    return served.client.get(f"{job}/result").json()


def refused(response: httpx.Response, status: int, code: str, saying: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert saying in response.json()["detail"]


def test_a_job_is_taken_in_at_once_and_says_where_it_is_found(running: Served, make_video: Make) -> None:
    video = make_video("red", "blue")
    response = running.post("/jobs", video, window_s=1, stride_s=0.5, frames=4, top_k=2)
    assert response.status_code == 202
    answer = response.json()
    assert response.headers["location"] == f"/jobs/{answer['id']}" == answer["links"]["self"]
    assert int(response.headers["retry-after"]) >= 1
    assert (answer["state"], answer["progress"], answer["bytes"]) == ("queued", 0, len(video))
    assert answer["model"] == {"name": "color", "version": "1.0.0"}
    assert [answer[name] for name in ("window_s", "stride_s", "frames", "top_k", "merge")] == [1, 0.5, 4, 2, True]
    done = ended(running, response.headers["location"])
    assert (done["state"], done["progress"], done["error"]) == ("done", 1, None)
    created, started, finished = (datetime.fromisoformat(done[name]) for name in ("created", "started", "finished"))
    assert created <= started <= finished
    assert created.tzinfo is not None
    assert "retry-after" not in running.client.get(answer["links"]["self"]).headers


@pytest.mark.parametrize(
    "query",
    [
        {"window_s": 1, "stride_s": 0.5, "frames": 4},
        {"window_s": 1, "stride_s": 0.5, "frames": 4, "merge": False},
        {"window_s": 0.7, "stride_s": 1.9, "frames": 3, "top_k": 1},
        {"window_s": 60, "frames": 4},
        {"window_s": 0.15, "stride_s": 0.05, "frames": 8},
    ],
    ids=str,
)
def test_a_job_answers_what_the_same_windows_are_answered_at_once(running: Served, make_video: Make, query) -> None:
    video = make_video("red", "red", "green", "blue", frames=13)
    at_once = running.post("/classify/video", video, **query).json()
    found = result(running, post(running, video, **query))
    assert len(found["segments"]) == len(at_once["segments"])
    for mine, theirs in zip([found, *found["segments"]], [at_once, *at_once["segments"]], strict=True):
        assert [each["label"] for each in mine["predictions"]] == [each["label"] for each in theirs["predictions"]]
        assert [each["probability"] for each in mine["predictions"]] == pytest.approx(
            [each["probability"] for each in theirs["predictions"]], abs=2e-5
        )
    for mine, theirs in zip(found["segments"], at_once["segments"], strict=True):
        assert [mine[name] for name in ("start_s", "end_s", "windows")] == [
            theirs[name] for name in ("start_s", "end_s", "windows")
        ]
    assert found["video"] == at_once["video"]
    assert found["sampling"]["stride_s"] == at_once["sampling"]["stride_s"]
    assert found["sampling"]["windows"] == sum(segment["windows"] for segment in found["segments"])
    assert (found["model"], found["warnings"]) == (at_once["model"], at_once["warnings"])


def test_without_a_window_it_is_four_seconds(running: Served, make_video: Make) -> None:
    found = result(running, post(running, make_video("red", "blue", frames=80)))
    assert [(each["start_s"], each["end_s"]) for each in found["segments"]] == [(0, 8), (8, 16)]
    assert found["sampling"]["window_s"] == 4


def test_a_result_can_be_had_for_a_player_and_for_a_spreadsheet(running: Served, make_video: Make) -> None:
    job = post(running, make_video("red", "green"), window_s=1)
    ended(running, job)
    vtt = running.client.get(f"{job}/result", params={"format": "vtt"})
    assert vtt.headers["content-type"] == "text/vtt; charset=utf-8"
    assert vtt.headers["content-disposition"] == f'inline; filename="{job.removeprefix("/jobs/")}.vtt"'
    assert vtt.text.startswith("WEBVTT\n\nNOTE color 1.0.0 on openvino fp32, by Marey ")
    assert "\n00:00:01.000 --> 00:00:02.000\ngreen 99%\n" in vtt.text.replace("100%", "99%")
    table = running.client.get(f"{job}/result", params={"format": "csv"})
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert [(row["start_s"], row["label"]) for row in rows if row["rank"] == "1"] == [
        ("0.0000", "red"),
        ("1.0000", "green"),
    ]
    assert running.client.get(f"{job}/result", headers={"Accept": "text/csv"}).text == table.text
    refused(running.client.get(f"{job}/result", params={"format": "srt"}), 422, "invalid_parameter", "srt")


def test_segments_are_read_a_page_at_a_time(running: Served, make_video: Make) -> None:
    job = post(running, make_video("red", "green", "blue", "red", "green"), window_s=1)
    whole = result(running, job)["segments"]
    found, path = [], f"{job}/segments?limit=2"
    while path:
        page = running.client.get(path).json()
        assert (page["total"], page["complete"], page["offset"]) == (5, True, len(found))
        assert len(page["segments"]) <= 2
        found += page["segments"]
        path = page["next"]
    assert found == whole
    assert running.client.get(f"{job}/segments?offset=99").json()["segments"] == []


def test_jobs_are_listed_a_page_at_a_time_the_newest_first(running: Served, make_video: Make) -> None:
    made = [post(running, make_video("red"), window_s=1) for _ in range(5)]
    for job in made:
        ended(running, job)
    found, path = [], "/jobs?limit=2&state=done"
    while path and len(found) < 5:
        page = running.client.get(path).json()
        assert len(page["jobs"]) == 2
        found += [job["links"]["self"] for job in page["jobs"]]
        path = page["next"]
    assert found[:5] == made[::-1]
    assert running.client.get("/jobs?state=failed&limit=1").json()["jobs"] == []
    assert 'marey_jobs{state="done"}' in running.client.get("/metrics").text


def test_what_is_no_video_is_refused_and_leaves_nothing_behind(
    running: Served, make_picture: Make, folder: Path
) -> None:
    before = running.client.get("/jobs").json()
    refused(running.post("/jobs", make_picture("red")), 415, "unsupported_media", "post it to /classify/image")
    refused(running.post("/jobs", b"#EXTM3U\nhttp://x"), 415, "unsupported_media", "an HLS playlist")
    refused(running.post("/jobs", b"RIFF" + bytes(2**23)), 413, "file_too_large", "MAREY_MAX_JOB_BYTES")
    refused(running.post("/jobs", b""), 400, "empty_file", "0 bytes")
    refused(running.post("/jobs", b"x", window_s=0), 422, "invalid_parameter", "window_s")
    refused(running.post("/jobs", b"x", frames=99), 422, "invalid_parameter", "exceeds this model's 8")
    refused(running.post("/jobs", b"x", model="other"), 404, "unknown_model", "'other'")
    refused(running.client.get("/jobs/1"), 404, "unknown_job", "there is no job '1'")
    refused(running.client.delete("/jobs/1"), 404, "unknown_job", "there is no job '1'")
    assert running.client.get("/jobs").json() == before
    assert list((folder / "files").iterdir()) == []


def test_a_video_that_breaks_fails_its_job_with_the_problem(running: Served, make_video: Make) -> None:
    video = make_video("red")
    # A container whose frames are noise.
    at = video.index(b"mdat") + 4
    noise = np.random.default_rng(0).bytes(400)
    job = post(running, video[:at] + noise + video[at + 400 :])
    answer = ended(running, job)
    assert answer["state"] == "failed", answer
    assert (answer["error"]["code"], answer["error"]["status"]) == ("decode_failed", 422)
    assert answer["error"]["request_id"]
    refused(running.client.get(f"{job}/result"), 409, "job_conflict", "the job is failed")


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
    assert 0 < answer["looked_s"] < 900
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


async def test_one_service_at_a_time_has_a_folder_and_the_other_serves_everything_else(
    running: Served, color_bundle: Bundle, make_video: Make, folder: Path, tmp_path: Path
) -> None:
    (file := tmp_path / "file").touch()
    none = "this service takes no jobs; raise MAREY_MAX_JOBS above 0"
    for settings, saying in (
        ({"jobs": folder}, "are another service's, one that runs; give each its own by MAREY_JOBS"),
        ({"jobs": file}, "name another folder by MAREY_JOBS"),
        ({"max_jobs": 0}, none),
    ):
        app = create_app(Settings(bundles=(color_bundle.path,), engine="onnxruntime", decode_workers=1, **settings))
        transport = httpx.ASGITransport(app)
        async with (
            asyncio.timeout(60),
            httpx.AsyncClient(transport=transport, base_url="http://marey") as client,
            app.router.lifespan_context(app),
        ):
            await app.state.marey.loaded.wait()
            ready = await client.get("/health/ready")
            assert ready.status_code == 200
            assert ready.json()["jobs"]["taken"] is False
            assert saying in ready.json()["jobs"]["reason"]
            refused(await client.post("/jobs", files={"file": make_video("red")}), 503, "not_ready", saying)
            refused(await client.get("/jobs"), 503, "not_ready", saying)
            answer = await client.post("/classify/video", files={"file": make_video("red")})
            assert answer.json()["predictions"][0]["label"] == "red"
    assert running.client.get("/health/ready").json()["jobs"] == {"taken": True, "reason": None}


def test_a_job_is_its_keys_own_and_the_line_and_the_time_that_jobs_are_kept_are_bounded(
    serve: Serve, color_bundle: Bundle, make_video: Make, long_video: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    mine, other, admin = (
        {"authorization": f"Bearer {keys.add(path, name, role=role)}"}
        for name, role in (("mine", "user"), ("other", "user"), ("ops", "admin"))
    )
    limits = {"MAREY_KEYS": str(path), "MAREY_MAX_JOBS": "2", "MAREY_KEEP_JOBS_S": "1"}
    with serve(str(color_bundle.path), **limits) as served:
        client = served.client
        first = client.post("/jobs", params=FINE, files={"file": long_video}, headers=mine)
        second = client.post("/jobs", files={"file": make_video("red")}, headers=mine)
        full = client.post("/jobs", files={"file": make_video("red")}, headers=other)
        refused(full, 429, "overloaded", "2 jobs wait or run, the limit is 2")
        assert int(full.headers["retry-after"]) >= 1
        job = first.headers["location"]
        for whose, status in ((mine, 200), (other, 404), (admin, 200), ({}, 401)):
            for under in ("", "/segments"):
                assert client.get(job + under, headers=whose).status_code == status
        assert client.get(f"{job}/result", headers=other).status_code == 404
        assert client.delete(job, headers=other).status_code == 404
        seen = [len(client.get("/jobs", headers=whose).json()["jobs"]) for whose in (mine, other, admin)]
        assert seen == [2, 0, 2]
        assert client.delete(job, headers=admin).json()["state"] == "cancelled"
        for each in (first, second):
            while client.get(each.headers["location"], headers=mine).status_code != 404:
                pass  # its time is over, 1 s after it ended


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
    assert windows == 8_996
    assert heads == pytest.approx(windows - between, abs=64), "what was found before is not computed again"
    assert 0 < before < between < windows
    segments = found["segments"]
    # A color every 7 s, and windows of five frames: the border lies where the third is the first of the new color.
    assert [each["predictions"][0]["label"] for each in segments] == [list(COLORS)[i % 3] for i in range(len(segments))]
    assert len(segments) == 129
    assert (segments[0]["start_s"], segments[-1]["end_s"]) == (0, 900)
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
