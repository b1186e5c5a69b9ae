"""What is taken in as a job, what is refused, and a service that takes none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import httpx

from service.api.app import create_app
from service.bundle.store import Bundle
from service.settings import Settings
from tests.api.jobs.conftest import ended, refused
from tests.conftest import Served

Make = Callable[..., bytes]


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


def test_what_is_no_video_is_refused_and_leaves_nothing_behind(
    running: Served, make_picture: Make, folder: Path
) -> None:
    before = running.client.get("/jobs").json()
    refused(running.post("/jobs", make_picture("red")), 415, "unsupported_media", "post it to /classify/image")
    refused(running.post("/jobs", b"#EXTM3U\nhttp://x"), 415, "unsupported_media", "an HLS playlist")
    refused(running.post("/jobs", b"RIFF" + bytes(2**25)), 413, "file_too_large", "MAREY_MAX_JOB_BYTES")
    refused(running.post("/jobs", b""), 400, "empty_file", "0 bytes")
    refused(running.post("/jobs", b"x", window_s=0), 422, "invalid_parameter", "window_s")
    refused(running.post("/jobs", b"x", frames=99), 422, "invalid_parameter", "exceeds this model's 8")
    refused(running.post("/jobs", b"x", model="other"), 404, "unknown_model", "'other'")
    refused(running.client.get("/jobs/1"), 404, "unknown_job", "there is no job '1'")
    refused(running.client.delete("/jobs/1"), 404, "unknown_job", "there is no job '1'")
    assert running.client.get("/jobs").json() == before
    assert list((folder / "files").iterdir()) == []


async def test_one_service_at_a_time_has_a_folder_and_the_other_serves_everything_else(
    running: Served, color_bundle: Bundle, make_video: Make, folder: Path, tmp_path: Path
) -> None:
    (file := tmp_path / "file").touch()
    kept, none = (503, "not_ready"), (404, "no_jobs")
    for settings, how, saying in (
        ({"jobs": folder}, kept, "are another service's, one that runs; give each its own by MAREY_JOBS"),
        ({"jobs": file}, kept, "name another folder by MAREY_JOBS"),
        ({"max_jobs": 0}, none, "this service takes no jobs; send the video to POST /classify/video"),
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
            refused(await client.post("/jobs", files={"file": make_video("red")}), *how, saying)
            refused(await client.get("/jobs"), *how, saying)
            answer = await client.post("/classify/video", files={"file": make_video("red")})
            assert answer.json()["predictions"][0]["label"] == "red"
    jobs = running.client.get("/health/ready").json()["jobs"]
    assert running.on_ray or jobs == {"taken": True, "reason": None}  # on Ray another replica keeps them
