"""The service on a GPU: many callers at once, each with its own right answer; over HTTP from start to SIGTERM.

MAREY_GPU_REQUESTS: how many requests in all are sent in process (default 10,000); a tenth of them over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.bundle.store import Bundle
from service.engine.base import Place
from service.engine.cuda import Device
from service.nvml import pci_address
from service.registry import Registry
from service.settings import Settings
from service.waiting import Rows
from tests.gpu.media import frames_for, png, video

_REQUESTS = int(os.environ.get("MAREY_GPU_REQUESTS", "10000"))
_THREADS = 32


@contextmanager
def in_process(settings: Settings) -> Iterator[tuple[Registry, Callable[[Coroutine[Any, Any, Any]], Any]]]:
    """The server's registry on an event loop of its own thread, and a way to wait for it from any other thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="event loop")
    thread.start()

    def wait(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=300)

    async def make() -> Registry:
        return Registry(settings)

    registry = wait(make())
    try:
        wait(registry.start())
        yield registry, wait
    finally:
        wait(registry.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Frames:
    """Frames and the features of each when it was sent alone, all of them further apart than INT8 rounds."""

    def __init__(self, frames: np.ndarray, features: np.ndarray) -> None:
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        kept: list[int] = []
        for number in range(len(frames)):
            if all(unit[number] @ unit[other] < 0.93 for other in kept):
                kept.append(number)
        self.frames, self._unit = frames[kept], unit[kept]

    def are_right(self, numbers: list[int], features: np.ndarray) -> bool:
        """Whether each row is nearest to the features of its own frame."""
        cosines = features @ self._unit.T / np.linalg.norm(features, axis=1, keepdims=True)
        return cosines.argmax(axis=1).tolist() == numbers and bool((cosines.max(axis=1) >= 0.93).all())


@pytest.mark.timeout(480)
def test_ten_thousand_requests_from_32_threads_get_each_its_own_answer(
    place: Place, fight: Bundle, imagenet: Bundle, tmp_path: Path, record: Callable[..., None]
) -> None:
    """Two models at once, by the registry's own batcher; each tenth request an encoded image, each fiftieth a video.

    A context used on a wrong thread would be an error, rows mixed up a wrong answer.
    """
    settings = Settings(
        bundles=(fight.path, imagenet.path),
        engine="tensorrt",
        precision="int8",
        engine_cache=place.engine_cache,
        max_queued_rows=65536,
    )
    deadline = time.monotonic() + 3600
    with in_process(settings) as (registry, wait):
        images, videos = registry.get("imagenet"), registry.get("fight")
        (replica,) = images.replicas

        def encode(rows: np.ndarray) -> Rows:
            return wait(replica.batcher.run(replica.engine, "encoder", rows, deadline=deadline))

        def judge(features: np.ndarray) -> np.ndarray:
            rows = wait(replica.batcher.run(replica.engine, "head", features[None], deadline=deadline))
            return rows.outputs["probabilities"]

        candidates = frames_for(imagenet, 96, seed=11)
        known = Frames(candidates, np.concatenate([encode(frame[None]).outputs["features"] for frame in candidates]))
        count = len(known.frames)
        assert count >= 16, "too few frames that can be told apart"
        pictures = [png(frame) for frame in known.frames[:16]]
        answers = [wait(images.image(picture, deadline=deadline)).probabilities for picture in pictures]
        plan = videos.plan(frames=8, window_s=None, stride_s=None)
        clips = [video(tmp_path, frames=24, height=160, width=224, seed=seed) for seed in range(4)]
        expected = [wait(videos.video(clip, plan=plan, deadline=deadline)).probabilities for clip in clips]
        of_fight, of_imagenet = (each.manifest.golden.tolerance["int8"] for each in (fight, imagenet))

        def request(number: int) -> tuple[bool, int]:
            """Whether the answer is right, and how many rows ran together."""
            if number % 50 == 49:
                which = number // 50 % len(clips)
                answer = wait(videos.video(clips[which], plan=plan, deadline=deadline))
                return np.abs(answer.probabilities - expected[which]).max() <= of_fight, answer.batch_size
            if number % 10 == 9:
                which = number // 10 % len(pictures)
                answer = wait(images.image(pictures[which], deadline=deadline))
                return np.abs(answer.probabilities - answers[which]).max() <= of_imagenet, answer.batch_size
            rows = [(number * 5 + step) % count for step in range(1 + number % 4)]
            encoded = encode(known.frames[rows])
            features = encoded.outputs["features"]
            sums = judge(features).sum(axis=1)
            return known.are_right(rows, features) and bool(np.abs(sums - 1).max() < 1e-2), encoded.batch_size

        numbers, lock = iter(range(_REQUESTS)), threading.Lock()

        def caller(_thread: int) -> list[tuple[int, bool, int]]:
            found = []
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return found
                found.append((number, *request(number)))

        began = time.monotonic()
        with ThreadPoolExecutor(_THREADS) as pool:
            found = [each for part in pool.map(caller, range(_THREADS)) for each in part]
        spent = time.monotonic() - began
        assert registry.alive
    wrong = [number for number, right, _ in found if not right]
    batches = [batch for _, _, batch in found]
    record(
        requests=len(found),
        requests_per_s=round(len(found) / spent, 1),
        largest_batch=max(batches),
        mean_batch=round(float(np.mean(batches)), 2),
        wrong=wrong[:20],
    )
    assert sorted(number for number, _, _ in found) == list(range(_REQUESTS))
    assert not wrong
    assert max(batches) > 4, "requests must have met in a batch"


class Pictures:
    """Encoded pictures with the answer to each when it was asked alone, all of them further apart than FP16 rounds."""

    def __init__(self, bundle: Bundle, ask: Callable[[bytes], np.ndarray]) -> None:
        self.content: list[bytes] = []
        self._answers: list[np.ndarray] = []
        self._limit = bundle.manifest.golden.tolerance["fp16"]
        for frame in frames_for(bundle, 96, seed=11):
            content = png(frame)
            answer = ask(content)
            if all(np.abs(answer - other).max() > 3 * self._limit for other in self._answers):
                self.content.append(content)
                self._answers.append(answer)

    def is_right(self, number: int, answer: np.ndarray) -> bool:
        """Nearest to the answer of this picture, and as near as FP16 may be to float."""
        distances = [float(np.abs(answer - other).max()) for other in self._answers]
        return int(np.argmin(distances)) == number and distances[number] <= self._limit


def vector(answer: dict[str, Any]) -> np.ndarray:
    """All probabilities of an answer, in the order of the classes."""
    found = np.zeros(len(answer["predictions"]))
    for each in answer["predictions"]:
        found[each["class_id"]] = each["probability"]
    return found


def test_images_and_videos_over_http_are_answered_by_tensorrt_as_by_openvino(
    marey_serve: Callable[..., Any],
    fight: Bundle,
    imagenet: Bundle,
    gpu: Device,
    tmp_path: Path,
    record: Callable[..., None],
) -> None:
    photos = [png(np.pad(frame, ((16, 16), (16, 16), (0, 0)), "edge")) for frame in frames_for(imagenet, 6, seed=21)]
    clips = [video(tmp_path, frames=50, height=240, width=320, seed=seed) for seed in (31, 32, 33)]
    answers: dict[str, list[dict[str, Any]]] = {}
    metrics = ""
    # Not at INT8, where roundings that flip change some synthetic pictures by 0.3: a swap of colours would hide in that.
    for engine, precision in (("tensorrt", "fp16"), ("openvino", "fp32")):
        with marey_serve("--engine", engine, "--precision", precision) as served:
            asked = [served.post("/classify/image", photo, top_k=0) for photo in photos]
            asked += [served.post("/classify/video", clip, top_k=0) for clip in clips]
            assert [each.status_code for each in asked] == [200] * len(asked), asked[0].text
            answers[engine] = [each.json() for each in asked]
            ready = served.client.get("/health/ready").json()
            if engine == "tensorrt":
                metrics = served.client.get("/metrics").text
    for answer in answers["tensorrt"]:
        assert (answer["model"]["engine"], answer["model"]["precision"]) == ("tensorrt", "fp16")
        assert answer["model"]["float_precision"] == "fp16"
        assert gpu.name in answer["model"]["device"]
    assert ready
    differences = {}
    for number, (found, expected) in enumerate(zip(answers["tensorrt"], answers["openvino"], strict=True)):
        bundle = {"imagenet": imagenet, "fight": fight}[found["model"]["name"]]
        differences[f"{bundle.manifest.name} {number}"] = float(np.abs(vector(found) - vector(expected)).max())
        assert differences[f"{bundle.manifest.name} {number}"] <= bundle.manifest.golden.tolerance["fp16"]
    record(tensorrt_against_openvino=differences)
    # By NVML, which sees the GPU as CUDA does.
    for name in ("marey_gpu_info", "marey_gpu_memory_used_bytes", "marey_gpu_memory_total_bytes"):
        assert f"{name}{{" in metrics, metrics[:2000]
    assert f'pci_bus_id="{pci_address(gpu.pci_bus_id)}"' in metrics
    assert 'engine="tensorrt"' in metrics


@pytest.mark.timeout(480)
def test_a_server_under_load_answers_each_caller_and_leaves_the_gpu_as_it_was(
    marey_serve: Callable[..., Any],
    imagenet: Bundle,
    gpu: Device,
    record: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    with gpu.current():
        before = gpu.free_bytes()
    each = max(1, _REQUESTS // 10 // _THREADS)
    with marey_serve("--engine", "tensorrt", "--precision", "fp16", str(imagenet.path)) as served:
        with gpu.current():
            taken = before - gpu.free_bytes()

        def ask(client: httpx.Client, content: bytes) -> np.ndarray:
            response = client.post("/classify/image", params={"top_k": 0}, files={"file": content})
            assert response.status_code == 200, response.text
            return vector(response.json())

        pictures = Pictures(imagenet, lambda content: ask(served.client, content))
        assert len(pictures.content) >= 6, "too few pictures that can be told apart"

        def caller(thread: int) -> list[bool]:
            with httpx.Client(base_url=served.url, timeout=120) as client:
                found = []
                for turn in range(each):
                    number = (thread + turn * 7) % len(pictures.content)
                    found.append(pictures.is_right(number, ask(client, pictures.content[number])))
                return found

        began = time.monotonic()
        with ThreadPoolExecutor(_THREADS) as pool:
            right = [one for part in pool.map(caller, range(_THREADS)) for one in part]
        spent = time.monotonic() - began
    with gpu.current():
        lost = before - gpu.free_bytes()
    said = capfd.readouterr().err
    record(
        http_requests=len(right), http_requests_per_s=round(len(right) / spent, 1), server_bytes=taken, lost_bytes=lost
    )
    assert len(right) == each * _THREADS
    assert all(right)
    assert lost <= 64 * 2**20
    for trouble in ("PyCUDA", "Traceback", "context"):
        assert trouble not in said, said


def test_sigterm_answers_what_was_accepted_and_exits_with_zero(
    marey_serve: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = video(tmp_path, frames=700, height=480, width=640, seed=41)
    answers: list[httpx.Response] = []
    with marey_serve("--engine", "tensorrt") as served:
        work = [
            threading.Thread(
                target=lambda: answers.append(
                    httpx.post(f"{served.url}/classify/video", files={"file": content}, timeout=120)
                )
            )
            for _ in range(2)
        ]
        for thread in work:
            thread.start()
        while "marey_requests_active 2.0" not in served.client.get("/metrics").text:
            assert all(thread.is_alive() for thread in work), "answered before SIGTERM: the video is too short"
        served.process.send_signal(signal.SIGTERM)
        for thread in work:
            thread.join()
        assert served.process.wait(timeout=60) == 0
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    assert all(answer.json()["model"]["engine"] == "tensorrt" for answer in answers)
    assert "PyCUDA" not in capfd.readouterr().err


def test_the_command_line_classifies_on_the_gpu_without_a_server(
    imagenet: Bundle, engines: Path, tmp_path: Path
) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(png(frames_for(imagenet, 1, seed=51)[0]))
    ran = subprocess.run(
        [sys.executable, "-m", "service", "classify", file, "--engine", "tensorrt", "--json"],
        env={**os.environ, "MAREY_ENGINE_CACHE": str(engines)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (answer,) = json.loads(ran.stdout)
    assert (answer["model"]["engine"], answer["model"]["precision"]) == ("tensorrt", "int8")
    assert "PyCUDA" not in ran.stderr
