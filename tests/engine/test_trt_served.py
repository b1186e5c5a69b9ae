"""`marey serve --engine tensorrt` on a stand-in GPU, as a user meets it: HTTP in, probabilities out, the GPU left as it was found."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from service.bundle.store import Bundle
from service.errors import EngineError
from service.registry import Registry
from service.settings import Settings
from tests.clip_bundle import make_clip_bundle

CLEAN = ("device_bytes", "pinned_bytes", "streams", "events", "graphs", "execs", "leaked_bytes", "leaked_objects")


def png(color: int) -> bytes:
    """A picture of 16×16 pixels, all of one colour channel."""
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[..., 2 - color] = 255
    return cv2.imencode(".png", picture)[1].tobytes()


@pytest.mark.parametrize(
    ("flavour", "order", "gpus"),
    [("tensorrt_rtx", "lazy", 1), ("tensorrt", "racing", 2)],
    ids=["rtx", "full on two GPUs"],
)
def test_requests_from_many_threads_are_answered_and_the_gpu_is_left_clean(
    machine, serve, color_bundle: Bundle, tmp_path: Path, flavour: str, order: str, gpus: int
) -> None:
    variables = machine.variables(
        flavour,
        STANDIN_ORDER=order,
        STANDIN_GPUS=str(gpus),
        STANDIN_REPORT=str(tmp_path / "report.json"),
        MAREY_ENGINE_CACHE=str(tmp_path / "cache"),
        MAREY_DEVICES=",".join(map(str, range(gpus))),
    )
    pictures = [png(color) for color in range(3)]
    with serve(str(color_bundle.path), "--engine", "tensorrt", **variables) as running:

        def ask(number: int) -> tuple[int, str, str]:
            files = {"file": pictures[number % 3]}
            answer = client.post("/classify/image", files=files)
            best = answer.json()["predictions"][0]
            return answer.status_code, best["label"], answer.json()["model"]["engine"]

        with httpx.Client(base_url=running.url, timeout=60) as client, ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(150)))
        assert answers == [(200, ("red", "green", "blue")[number % 3], "tensorrt") for number in range(150)]
        model = running.client.get("/models/color").json()
        assert model["device"].startswith("Stand-in GPU (TensorRT")
        assert model["golden_difference"] <= 1e-4
        assert running.client.get("/health/ready").status_code == 200
    left = json.loads((tmp_path / "report.json").read_text())
    assert {name: left[name] for name in CLEAN} == dict.fromkeys(CLEAN, 0)
    assert left["launches"] > 0


def video(*channels: int) -> bytes:
    """MPEG-4 of 64×48 pixels, ten frames of each colour channel."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "made.mp4"
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
        for channel in channels:
            picture = np.zeros((48, 64, 3), np.uint8)
            picture[..., 2 - channel] = 230
            for _ in range(10):
                writer.write(picture)
        writer.release()
        return file.read_bytes()


@pytest.mark.parametrize(("flavour", "order"), [("tensorrt_rtx", "lazy"), ("tensorrt", "racing")], ids=["rtx", "full"])
def test_clip_networks_of_free_and_of_fixed_length_are_served_and_the_gpu_is_left_clean(
    machine, serve, tmp_path: Path, flavour: str, order: str
) -> None:
    bundles = [
        make_clip_bundle(tmp_path / "motion", positions="places"),
        make_clip_bundle(tmp_path / "fixed", name="fixed", frames=4, positions="steps"),
    ]
    variables = machine.variables(
        flavour,
        STANDIN_ORDER=order,
        STANDIN_REPORT=str(tmp_path / "report.json"),
        MAREY_ENGINE_CACHE=str(tmp_path / "cache"),
    )
    videos = {"turns blue": video(0, 2), "was blue": video(2, 0), "green": video(1)}
    asked = [(model, label, windows) for model in ("motion", "fixed") for label in videos for windows in (0, 1)] * 4
    with serve(*(str(bundle.path) for bundle in bundles), "--engine", "tensorrt", **variables) as running:

        def ask(question: tuple[str, str, int]) -> list[str]:
            model, label, windows = question
            wishes = {"model": model, **({"window_s": 1} if windows else {})}
            answer = client.post("/classify/video", params=wishes, files={"file": videos[label]}).json()
            assert answer["model"]["engine"] == "tensorrt", answer
            assert ("positions" in answer) == (not windows)
            parts = answer["segments"] if windows else [answer]
            return [part["predictions"][0]["label"] for part in parts]

        with httpx.Client(base_url=running.url, timeout=60) as client, ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask, asked))
        seconds = {"turns blue": ["red", "blue"], "was blue": ["blue", "red"], "green": ["green"]}
        assert answers == [seconds[label] if windows else [label] for _, label, windows in asked]
    left = json.loads((tmp_path / "report.json").read_text())
    assert {name: left[name] for name in CLEAN} == dict.fromkeys(CLEAN, 0)


def test_a_server_whose_gpu_fails_answers_with_503_and_ends_to_be_restarted(
    machine, serve, color_bundle: Bundle, tmp_path: Path
) -> None:
    counted = tmp_path / "counted.json"
    quiet = machine.variables(STANDIN_REPORT=str(counted), MAREY_ENGINE_CACHE=str(tmp_path / "cache"))
    for _ in range(2):  # the second start finds the engine in the cache, as the third will
        with serve(str(color_bundle.path), "--engine", "tensorrt", **quiet):
            pass
    start = json.loads(counted.read_text())["calls"]
    faulty = {**quiet, "STANDIN_FAULT": str(start + 3)}
    with serve(str(color_bundle.path), "--engine", "tensorrt", exit_code=1, **faulty) as running:
        answers = [running.post("/classify/image", png(0))]
        with contextlib.suppress(httpx.TransportError):  # it may have ended
            while len(answers) < 10:
                answers.append(running.post("/classify/image", png(0)))
        assert answers[0].status_code == 200
        failed = next(answer for answer in answers if answer.status_code != 200)
        assert (failed.status_code, failed.json()["code"]) == (503, "device_lost")
        assert failed.headers["Retry-After"] == "30"
        assert running.process.wait(timeout=30) == 1


@pytest.mark.parametrize("after_s", [0.0, 0.4, 0.8, 1.2])
def test_a_server_that_is_stopped_while_it_loads_gives_everything_back(
    machine, color_bundle: Bundle, tmp_path: Path, after_s: float
) -> None:
    report = tmp_path / "report.json"
    variables = machine.variables(STANDIN_REPORT=str(report), MAREY_ENGINE_CACHE=str(tmp_path / "cache"))
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--engine", "tensorrt", str(color_bundle.path)]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "listens" in process.stdout.readline()
        time.sleep(after_s)  # somewhere in building, warming or proving
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "could not be cleaned up" not in said
    left = (
        json.loads(report.read_text()) if report.exists() else dict.fromkeys(CLEAN, 0)
    )  # the driver was not there yet
    assert {name: left[name] for name in CLEAN} == dict.fromkeys(CLEAN, 0)


class StopsBeforeWarming(logging.Handler):
    """Stops `registry` when an engine has proved itself, which is logged where another precision did not, and before it is warmed."""

    def __init__(self, registry: Registry, held: Callable[[], dict[str, int]]) -> None:
        super().__init__(logging.INFO)
        self._registry, self._held = registry, held
        self.held: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if "runs on tensorrt fp32; not on" in record.getMessage():
            self.held = self._held()
            self._registry.stop()


@pytest.fixture
def settings(color_bundle: Bundle, tmp_path: Path) -> Settings:
    return Settings(
        bundles=(color_bundle.path,), engine="tensorrt", engine_cache=tmp_path, decode_workers=1, queue_ms=60_000
    )


@pytest.mark.standin
def test_an_engine_whose_warming_fails_is_closed_at_once(settings: Settings, held) -> None:
    async def scenario() -> None:
        registry = Registry(settings)
        handler, logger = StopsBeforeWarming(registry, held), logging.getLogger("service.engine.select")
        logger.addHandler(handler)
        level = logger.level
        logger.setLevel(logging.INFO)
        try:
            with pytest.raises(EngineError, match="the engine was given up, because the service is stopping"):
                await registry.start()
            assert handler.held, "the engine was open"
            assert held() == {}, "before the registry is closed"
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            await registry.close()

    asyncio.run(scenario())


@pytest.mark.standin
def test_a_registry_that_is_closed_closes_its_engines_whoever_still_holds_them(settings: Settings, held) -> None:
    async def scenario() -> None:
        registry = Registry(settings)
        await registry.start()
        models = registry.models  # so that no collector of garbage does what close() has to do
        assert held(), "the engine is open"
        await registry.close()
        assert held() == {}
        assert models

    asyncio.run(scenario())


def test_without_a_gpu_the_server_says_what_is_missing(machine, color_bundle: Bundle, tmp_path: Path) -> None:
    environment = {**os.environ, **machine.variables(STANDIN_GPUS="0", MAREY_ENGINE_CACHE=str(tmp_path))}
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--engine", "tensorrt", str(color_bundle.path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "CUDA does not start" in result.stderr
    assert "nvidia-smi" in result.stderr
