"""Jobs found in the folder at the start, in the whole application: each comes to its end, whatever is wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from service.api.app import create_app
from service.bundle.manifest import Network
from service.bundle.store import Bundle
from service.jobs.database import Database
from service.jobs.folder import Folder
from service.jobs.job import Wish
from service.jobs.store import Store
from service.media.frames import Windows
from service.settings import Settings
from service.spool import Upload
from tests.api.conftest import make_video as make_video  # noqa: PLC0414  # a fixture


async def put(folder: Folder, jobs: dict[str, bytes | None], *, model: str = "color", **attempts: int) -> None:
    """Jobs as a service that was killed left them: running, with a file or without."""
    folder.open()
    database = Database(folder.database)
    await database.open()
    store = Store(database)
    wish = Wish(model, "1.0.0", Windows(1.0, 0.5, 4), merge=True, top_k=None, classes=3, request_id="r")
    for job, video in jobs.items():
        await store.add(job, owner="anonymous", wish=wish, size=1, most=99)
        if video is not None:
            folder.draft(job).write_bytes(video)
            folder.keep(job)
        row = (attempts.get(job, 1), job)
        await database.run(
            lambda db, row=row: db.execute("UPDATE jobs SET state = 'running', attempts = ? WHERE id = ?", row)
        )
    await database.close()
    folder.close()


async def ends(settings: Settings, *jobs: str) -> dict[str, Any]:
    """Start a service, and wait until these have ended."""
    app = create_app(settings)
    found: dict[str, Any] = {}
    transport = httpx.ASGITransport(app)
    async with (
        asyncio.timeout(60),
        httpx.AsyncClient(transport=transport, base_url="http://marey") as client,
        app.router.lifespan_context(app),
    ):
        await app.state.marey.loaded.wait()
        for job in jobs:
            while (answer := (await client.get(f"/jobs/{job}")).json())["state"] in ("queued", "running"):
                pass
            if answer["state"] == "done":
                answer["result"] = (await client.get(f"/jobs/{job}/result")).json()
            found[job] = answer
    return found


async def test_one_bad_job_does_not_keep_the_others_from_their_end(
    color_bundle: Bundle, make_video: Callable[..., bytes], tmp_path: Path
) -> None:
    video = make_video("red", "blue")
    folder = Folder(tmp_path / "jobs")
    await put(
        folder, {"deadly": video, "lost": None, "odd": b"RIFF", "good": video, "unlucky": video}, deadly=3, unlucky=2
    )
    settings = Settings(bundles=(color_bundle.path,), jobs=folder.path, engine="onnxruntime", decode_workers=1)
    found = await ends(settings, "deadly", "lost", "odd", "good", "unlucky")
    assert {job: answer["state"] for job, answer in found.items()} == {
        "deadly": "failed", "lost": "failed", "odd": "failed", "good": "done", "unlucky": "done",
    }  # fmt: skip
    assert "the service ended 3 times while it worked on this job" in found["deadly"]["error"]["detail"]
    assert "the job's file is gone" in found["lost"]["error"]["detail"]
    assert found["odd"]["error"]["code"] == "unsupported_media"
    assert [each["predictions"][0]["label"] for each in found["good"]["result"]["segments"]] == ["red", "blue"]
    assert list((folder.path / "files").iterdir()) == []


async def test_windows_of_a_multi_label_model_are_merged_by_all_that_they_say(
    make_bundle: Callable[..., Bundle], make_video: Callable[..., bytes], tmp_path: Path
) -> None:
    """Half red and half blue is neither above one half: a segment of its own, which the likeliest class would not make."""
    network = Network(feature_dim=3, attention=True, multi_label=True)
    bundle = make_bundle(tmp_path / "many", name="many", network=network)
    folder = Folder(tmp_path / "jobs")
    await put(folder, {"a": make_video("red", "blue")}, model="many")
    settings = Settings(bundles=(bundle.path,), jobs=folder.path, engine="onnxruntime", decode_workers=1)
    segments = (await ends(settings, "a"))["a"]["result"]["segments"]
    above = [[each["label"] for each in segment["predictions"] if each["probability"] > 0.5] for segment in segments]
    assert above == [["red"], [], ["blue"]]
    assert [(segment["start_s"], segment["end_s"]) for segment in segments] == [(0, 0.75), (0.75, 1.25), (1.25, 2)]


async def test_a_job_waits_while_its_model_is_not_served_and_those_behind_it_run(
    color_bundle: Bundle, make_bundle: Callable[..., Bundle], make_video: Callable[..., bytes], tmp_path: Path
) -> None:
    video, folder = make_video("red", "blue"), Folder(tmp_path / "jobs")
    (tmp_path / "away").mkdir()
    away = make_bundle(tmp_path / "away" / "late", name="late")
    (tmp_path / "bundles").mkdir()
    await put(folder, {"first": video}, model="late")
    await put(folder, {"behind": video})
    bundles = (color_bundle.path, tmp_path / "bundles")
    app = create_app(Settings(bundles=bundles, jobs=folder.path, engine="onnxruntime", decode_workers=1))
    async with (
        asyncio.timeout(60),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://marey") as client,
        app.router.lifespan_context(app),
    ):
        await app.state.marey.loaded.wait()
        behind = await _until(client, "behind", "done")
        assert behind["waiting_for"] is None
        first = await _until(client, "first", "queued")
        assert first["waiting_for"] == "model late:1.0.0 is not served; it runs once that is loaded"
        assert first["started"] is None
        assert [each["waiting_for"] is None for each in (await client.get("/jobs")).json()["jobs"]] == [True, False]
        assert (await client.post("/jobs?model=late", content=video)).status_code == 404  # new ones are refused

        away.path.rename(tmp_path / "bundles" / "late")  # as if it were mounted now
        await app.state.marey.registry.load("late")
        first = await _until(client, "first", "done")
        assert first["waiting_for"] is None
        found = (await client.get("/jobs/first/segments")).json()["segments"]
        assert [each["predictions"][0]["label"] for each in found] == ["red", "blue"]

        wish = (await app.state.marey.desk.store.get("behind", owner=None)).wish
        await app.state.marey.registry.unload("color")
        # Behind the door, which refuses it by now: as one whose file was still coming in.
        upload = Upload(video, len(video))
        unloaded = (await app.state.marey.desk.take_in(upload, owner="anonymous", wish=wish)).id
        answer = await _until(client, unloaded, "queued")
        assert "color:1.0.0 is not served" in answer["waiting_for"]
        await app.state.marey.registry.load("color")
        await _until(client, unloaded, "done")


async def test_a_job_that_is_cancelled_while_its_model_is_away_leaves_nothing(
    color_bundle: Bundle, make_video: Callable[..., bytes], tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "jobs")
    await put(folder, {"first": make_video("red")}, model="gone")
    app = create_app(Settings(bundles=(color_bundle.path,), jobs=folder.path, engine="onnxruntime", decode_workers=1))
    async with (
        asyncio.timeout(60),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://marey") as client,
        app.router.lifespan_context(app),
    ):
        await app.state.marey.loaded.wait()
        assert (await client.delete("/jobs/first")).json()["state"] == "cancelled"
    assert list((folder.path / "files").iterdir()) == []


async def _until(client: httpx.AsyncClient, job: str, state: str) -> dict[str, Any]:
    while (answer := (await client.get(f"/jobs/{job}")).json())["state"] != state:
        assert answer["state"] in ("queued", "running"), answer
    return answer
