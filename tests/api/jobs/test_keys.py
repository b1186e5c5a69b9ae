"""Jobs of several keys: whose they are, how many, and for how long they are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from service import keys
from service.bundle.store import Bundle
from tests.api.jobs.conftest import FINE, refused

Make = Callable[..., bytes]
Serve = Callable[..., Any]


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
