"""What jobs find, whole and page by page, for a program, a player and a spreadsheet; and which there are."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import numpy as np
import pytest

from tests.api.jobs.conftest import ended, post, refused, result
from tests.conftest import Served

Make = Callable[..., bytes]


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
    made = [post(running, make_video("red"), window_s=1) for _ in range(6)]
    for job in made:
        ended(running, job)
    found, path = [], "/jobs?limit=2&state=done"
    while path and len(found) < 6:
        page = running.client.get(path).json()
        assert len(page["jobs"]) == 2
        found += [job["links"]["self"] for job in page["jobs"]]
        path = page["next"]
    assert found[:6] == made[::-1]
    assert running.client.get("/jobs?state=failed&limit=1").json()["jobs"] == []
    assert running.counted('marey_jobs{state="done"}') > 0


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
