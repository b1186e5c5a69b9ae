"""Models come and go in a real server, under load: nobody is refused, and nobody is answered by what is not there any more."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from service.bundle.store import SHIPPED

# What one core takes is no matter here: whoever waits long is not refused.
PATIENT = {"MAREY_QUEUE_MS": "60000", "MAREY_DECODE_WORKERS": "1"}
RED = cv2.imencode(".png", np.full((48, 64, 3), (20, 20, 230), np.uint8))[1].tobytes()
AT_ONCE = 8


@dataclass
class Traffic:
    """Requests for red pictures, `AT_ONCE` of them under way at any time, and what became of them."""

    answers: list[tuple[float, int, str, str]] = field(default_factory=list)  # begun, status, version, label
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, client: httpx.AsyncClient, **query: str) -> None:
        while not self.ended.is_set():
            began = time.monotonic()
            answer = await client.post("/classify/image", params=query, files={"file": RED})
            told = answer.json()
            version = told["model"]["version"] if answer.status_code == 200 else answer.text
            label = told["predictions"][0]["label"] if answer.status_code == 200 else ""
            self.answers.append((began, answer.status_code, version, label))
            self.answered.set()

    async def more(self, count: int = 3 * AT_ONCE) -> None:
        """Until `count` more requests were answered: then all that began before this have been."""
        goal = len(self.answers) + count
        while len(self.answers) < goal:
            self.answered.clear()
            await self.answered.wait()

    def since(self, moment: float) -> set[tuple[str, str]]:
        """Version and label of the answers to what was asked after `moment`."""
        return {(version, label) for began, _, version, label in self.answers if began > moment}


@asynccontextmanager
async def under_load(url: str, **query: str) -> AsyncIterator[Traffic]:
    """Every request that is made meanwhile must be answered with 200."""
    traffic = Traffic()
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=httpx.Limits(max_connections=AT_ONCE)) as client:
        asking = [asyncio.create_task(traffic.ask(client, **query)) for _ in range(AT_ONCE)]
        try:
            await traffic.more()
            yield traffic
            await traffic.more()
        finally:
            traffic.ended.set()
            await asyncio.gather(*asking)
    failed = [answer for answer in traffic.answers if answer[1] != 200]
    assert not failed, f"{len(failed)} of {len(traffic.answers)}: {failed[:3]}"


@asynccontextmanager
async def controlling(url: str) -> AsyncIterator[InferenceServerClient]:
    with InferenceServerClient(url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path, make_bundle) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    make_bundle(folder / "color", version="1")
    return folder


@pytest.fixture
def running(serve, folder: Path) -> Iterator[object]:
    with serve(str(folder), **PATIENT) as served:
        yield served


@pytest.mark.timeout(120)
async def test_no_request_is_dropped_while_models_are_reloaded_unloaded_and_broken(
    running, folder: Path, make_bundle
) -> None:
    async with under_load(running.url) as traffic, controlling(running.url) as triton:
        # A changed bundle of the same version.
        make_bundle(folder / "color", version="1", labels=("rouge", "vert", "bleu"))
        await traffic.more()
        assert traffic.since(0) == {("1", "red")}, "what lies in the folder is not served before it is loaded"
        await asyncio.to_thread(triton.load_model, "color")
        loaded = time.monotonic()
        await traffic.more()
        assert traffic.since(loaded) == {("1", "rouge")}

        # A newer version comes and goes again.
        make_bundle(folder / "newer", version="2", labels=("rosso", "verde", "blu"))
        await asyncio.to_thread(triton.load_model, "color:2")
        loaded = time.monotonic()
        await traffic.more()
        assert traffic.since(loaded) == {("2", "rosso")}
        await asyncio.to_thread(triton.unload_model, "color:2")
        unloaded = time.monotonic()
        await traffic.more()
        assert traffic.since(unloaded) == {("1", "rouge")}

        # One that is damaged leaves what was served before.
        (folder / "color" / "head.onnx").write_bytes(b"damaged")
        with pytest.raises(InferenceServerException, match=r"head\.onnx has sha256"):
            await asyncio.to_thread(triton.load_model, "color:1")
        failed = time.monotonic()
        await traffic.more()
        assert traffic.since(failed) == {("1", "rouge")}
        told = (await asyncio.to_thread(running.client.get, "/models")).json()
        assert "head.onnx has sha256" in told["broken"][0]["error"]
        by_version = {each["version"]: each for each in told["models"]}
        assert by_version["1"]["state"] == "READY"
        assert "an earlier state of it is served" in by_version["1"]["reason"]
        assert by_version["2"]["state"] in ("UNAVAILABLE", "UNLOADING")
    assert len(traffic.answers) > 100


@pytest.mark.timeout(120)
async def test_the_service_follows_its_folder_while_it_answers(serve, folder: Path, make_bundle) -> None:
    with serve(str(folder), MAREY_WATCH_S="0.1", **PATIENT) as running:

        async def until(holds: Callable[[dict[str, str], str], bool]) -> None:
            """Until `holds(states by version, what is broken)`."""
            while True:
                told = (await asyncio.to_thread(running.client.get, "/models")).json()
                states = {each["version"]: each["state"] for each in told["models"]}
                if holds(states, str(told["broken"])):
                    return
                await asyncio.sleep(0.02)

        async with under_load(running.url) as traffic, asyncio.timeout(60):
            (folder / "new").mkdir()
            make_bundle(folder / "new" / "er", version="2", labels=("rosso", "verde", "blu"))
            await until(lambda states, _: states == {"1": "READY", "2": "READY"})
            came = time.monotonic()
            await traffic.more()
            assert traffic.since(came) == {("2", "rosso")}

            for labels in (("rojo", "verde", "azul"), ("vermelho", "verde", "azul")):
                make_bundle(folder / "new" / "er", version="2", labels=labels)
                while not any(label == labels[0] for _, label in traffic.since(came)):
                    await traffic.more(1)
                came = time.monotonic()
                await traffic.more()
                assert traffic.since(came) == {("2", labels[0])}

            (folder / "broken").mkdir()
            (folder / "broken" / "manifest.json").write_text("{")
            await until(lambda states, broken: "broken/manifest.json" in broken and len(states) == 2)
            shutil.rmtree(folder / "broken")
            await until(lambda _, broken: broken == "[]")

            shutil.rmtree(folder / "new")
            await until(lambda states, _: states == {"1": "READY"})
            went = time.monotonic()
            await traffic.more()
            assert traffic.since(went) == {("1", "red")}


@pytest.mark.timeout(120)
async def test_others_are_answered_while_a_large_model_is_opened(running, folder: Path) -> None:
    shutil.copytree(SHIPPED / "imagenet", folder / "imagenet")
    async with under_load(running.url, model="color") as traffic, controlling(running.url) as triton:
        began, before = time.monotonic(), len(traffic.answers)
        await asyncio.to_thread(triton.load_model, "imagenet")
        ended, after = time.monotonic(), len(traffic.answers)
    # On the device thread none would be, but for those between two of its steps.
    assert after - before > 10 * (ended - began), (after - before, ended - began)


@pytest.mark.timeout(120)
async def test_models_beyond_the_budget_give_way_and_come_back(serve) -> None:
    """By onnxruntime fight costs some 120 MiB and imagenet some 220: only one of them fits."""
    with serve("--engine", "onnxruntime", MAREY_MAX_MODEL_BYTES=str(280 * 2**20), **PATIENT) as running:

        def models() -> dict[str, dict[str, object]]:
            return {each["name"]: each for each in running.client.get("/models").json()["models"]}

        before = models()
        assert {each["state"] for each in before.values()} == {"READY"}
        assert {name for name, each in before.items() if each["in_memory"]} == {"fight"}
        assert int(before["imagenet"]["memory_bytes"]) > 50 * 2**20
        async with httpx.AsyncClient(base_url=running.url, timeout=30) as client:
            hurried = await client.post(
                "/classify/image", params={"model": "imagenet", "timeout_ms": 50}, files={"file": RED}
            )
            assert (hurried.status_code, hurried.json()["code"]) == (504, "deadline_exceeded"), hurried.text
            asked = await asyncio.gather(
                *(client.post("/classify/image", params={"model": "imagenet"}, files={"file": RED}) for _ in range(6))
            )
        assert [answer.status_code for answer in asked] == [200] * 6
        assert {name for name, each in models().items() if each["in_memory"]} == {"imagenet"}
        loads = running.client.get("/metrics").text
        assert 'marey_model_memory_bytes{model="fight",version="1.0.0"} 0.0' in loads


def test_a_budget_in_which_nothing_fits_and_weights_of_nobody_end_the_start(folder: Path) -> None:
    for bundles, environment, saying in (
        (SHIPPED / "imagenet", {"MAREY_MAX_MODEL_BYTES": str(2**20)}, "takes 6 MiB at least, .* may take 1 MiB"),
        (folder, {"MAREY_WEIGHTS": "color:2=1"}, "MAREY_WEIGHTS: color has no version '2'; there are 1$"),
        (folder, {"MAREY_WEIGHTS": "colour:1=1"}, "MAREY_WEIGHTS: there is no model 'colour'"),
    ):
        result = subprocess.run(
            [sys.executable, "-m", "service", "serve", "--port", "0", str(bundles)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **environment, "MAREY_DECODE_WORKERS": "1"},
        )
        assert result.returncode == 1, result.stderr
        (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert re.search(saying, error), error


def test_one_broken_bundle_leaves_the_others_served_and_is_told(serve, folder: Path, make_bundle) -> None:
    bad = make_bundle(folder / "bad", name="bad")
    (bad.path / "encoder.onnx").write_bytes(b"damaged")
    with serve(str(folder), MAREY_DECODE_WORKERS="1") as running:
        ready = running.client.get("/health/ready")
        assert ready.status_code == 200
        assert [each["name"] for each in ready.json()["models"]] == ["color"]
        assert "encoder.onnx has sha256" in ready.json()["broken"][0]["error"]
