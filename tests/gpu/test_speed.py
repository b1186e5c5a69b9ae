"""How fast: ResNet50 at 224 and an LSTM of 512, pinned uint8 frames in, probabilities out.

Figures are recorded; what DESIGN promises is asserted with the full TensorRT only, for TensorRT-RTX was not made for the cards
of a data centre. MAREY_GPU_SECONDS: for each configuration (default 1). MAREY_GPU_RESNET: the bundle, else it is made.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.batcher import Batcher
from service.bench.engines import TORCH, Plan, compare
from service.bench.load import Address, drive, request
from service.bench.stopwatch import Task, measure
from service.bundle.manifest import Precision
from service.bundle.store import Bundle, open_bundle
from service.engine.base import Outputs, Place
from service.engine.flavour import Flavour
from service.engine.trt import TensorRtEngine
from tests.gpu.media import frames_for, video
from tests.gpu.resnet_lstm import FRAMES, make

pytestmark = [pytest.mark.speed, pytest.mark.timeout(480)]

_SECONDS = float(os.environ.get("MAREY_GPU_SECONDS", "1"))
_ROUNDS = 4
_BATCHES = (1, 16, 64)
_PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "fp32")
_CLIP_MS, _INT8_OVER_FP16, _SERVICE = 2.8, 1.3, 0.85  # what DESIGN §7 promises


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    given = os.environ.get("MAREY_GPU_RESNET")
    return open_bundle(given) if given else make(tmp_path_factory.mktemp("resnet") / "resnet50-lstm")


@pytest.fixture(scope="module")
def frames(resnet: Bundle) -> NDArray[np.uint8]:
    return frames_for(resnet, max(_BATCHES), seed=9)


def test_int8_fp16_and_fp32_beside_each_other_and_beside_torch(
    resnet: Bundle, place: Place, flavour: Flavour, record: Callable[..., None]
) -> None:
    """At 1, 16 and 64 frames, one batch and two under way, the head and a whole clip: `marey bench` in this process."""
    plan = Plan(
        engines=("tensorrt", TORCH), batches=_BATCHES, seconds=_SECONDS, rounds=_ROUNDS, torch_mode="reduce-overhead"
    )
    report = compare(resnet, plan=plan, place=place, command="tests/gpu/test_speed.py")
    record(bench=report.model_dump(mode="json"))
    runners = {(runner.engine, runner.precision): number for number, runner in enumerate(report.runners)}
    assert all(("tensorrt", precision) in runners for precision in _PRECISIONS), report.refused

    def find(precision: str, what: str, clips: int) -> Any:
        number = runners["tensorrt", precision]
        return next(
            each for each in report.configurations if (each.runner, each.what, each.clips) == (number, what, clips)
        )

    best = min(find(precision, "whole clip", 1).milliseconds.p50 for precision in ("int8", "fp16"))
    ratio = find("int8", "encoder", 64).times_as_fast["fp16"]
    overlapped = find("int8", "encoder, two under way", 64).times_as_fast["fp16"]
    gain = {
        f"{precision} {rows}": round(
            find(precision, "encoder, two under way", rows).frames_per_s
            / find(precision, "encoder", rows).frames_per_s,
            3,
        )
        for precision, rows in itertools.product(_PRECISIONS, _BATCHES)
    }
    record(clip_p50_ms=best, int8_over_fp16_at_64=ratio, the_same_two_under_way=overlapped, gain_of_overlap=gain)
    if not flavour.rtx:
        assert best <= _CLIP_MS
        assert max(ratio, overlapped) >= _INT8_OVER_FP16


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_cuda_graphs_beside_launches_one_by_one(
    precision: Precision, resnet: Bundle, place: Place, frames: NDArray[np.uint8], record: Callable[..., None]
) -> None:
    with ExitStack() as stack:
        tasks: dict[tuple[str, int], Task] = {}
        for graphs in (True, False):
            engine = TensorRtEngine(resnet, precision=precision, place=place, graphs=graphs)
            stack.callback(engine.close)
            for rows in _BATCHES:
                task = Task(lambda engine=engine, rows=rows: engine.run("encoder", frames[:rows]))  # type: ignore[misc]
                task.warm()
                tasks["graphs" if graphs else "launches", rows] = task
            if graphs:
                record(cuda_graphs=engine.cuda_graphs)
        timings = measure(tasks, seconds=_SECONDS, rounds=_ROUNDS)
    figures = {}
    for rows in _BATCHES:
        ours, theirs = timings["graphs", rows], timings["launches", rows]
        figures[str(rows)] = {
            "graphs_p50_ms": round(ours.percentile(50), 4),
            "launches_p50_ms": round(theirs.percentile(50), 4),
            "times_as_fast": round(ours.times_as_fast(theirs), 3),
            "noise": round(max(ours.noise, theirs.noise), 3),
        }
    record(cuda_graphs_against_launches=figures)


@pytest.fixture
async def batcher() -> Any:
    made = Batcher(max_queued_rows=65536)
    made.start()
    yield made
    made.close()


async def test_the_batcher_hands_on_what_the_engine_gives(
    resnet: Bundle,
    place: Place,
    flavour: Flavour,
    frames: NDArray[np.uint8],
    batcher: Batcher,
    record: Callable[..., None],
) -> None:
    """Frames that are decoded already, 16 of each caller: what queue, batches and event loop leave of the engine's own speed."""
    engine: TensorRtEngine = await batcher.call(lambda: TensorRtEngine(resnet, precision="int8", place=place))
    clip = frames[:FRAMES]

    def alone(seconds: float) -> float:
        """Frames a second on the device thread: full batches, two under way."""
        waiting: list[Callable[[], Outputs]] = [engine.begin("encoder", [frames], bucket=len(frames))]
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            waiting.append(engine.begin("encoder", [frames], bucket=len(frames)))
            waiting.pop(0)()
            done += len(frames)
        rate = done / (time.perf_counter() - began)
        waiting.pop()()
        return rate

    async def served(seconds: float) -> float:
        done, ends = 0, time.perf_counter() + seconds

        async def caller() -> None:
            nonlocal done
            while time.perf_counter() < ends:
                await batcher.run(engine, "encoder", clip, deadline=time.monotonic() + 60)
                done += len(clip)

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(32)))
        return done / (time.perf_counter() - began)

    try:
        await batcher.call(lambda: alone(0.2))
        pairs = [(await served(_SECONDS), await batcher.call(lambda: alone(_SECONDS))) for _ in range(_ROUNDS)]
    finally:
        await batcher.call(engine.close)
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    record(
        batcher_frames_per_s=round(float(np.median([ours for ours, _ in pairs]))),
        engine_frames_per_s=round(float(np.median([theirs for _, theirs in pairs]))),
        ratio=round(float(np.median(ratios)), 3),
        ratio_range=[round(ratios[0], 3), round(ratios[-1], 3)],
    )
    if not flavour.rtx:
        assert np.median(ratios) >= _SERVICE


@pytest.fixture
def clips(tmp_path: Path) -> list[bytes]:
    """Videos of the network's own size, every frame of which is looked at: as little decoding a frame as there can be."""
    return [video(tmp_path, frames=64, height=224, width=224, seed=seed) for seed in range(4)]


def test_over_http_with_as_little_decoding_as_there_can_be(
    resnet: Bundle, marey_serve: Callable[..., Any], clips: list[bytes], record: Callable[..., None]
) -> None:
    """Frames a second of 64-frame videos; which part of a request took how long says what bounds it."""
    with marey_serve(
        str(resnet.path),
        "--engine",
        "tensorrt",
        "--precision",
        "int8",
        MAREY_MAX_QUEUED_ROWS="65536",
        MAREY_TIMEOUT_MS="600000",
    ) as served:
        address = Address.parse(served.url)
        requests = [request(address, "/classify/video?frames=64", file=clip) for clip in clips]

        async def load(seconds: float) -> Any:
            return await drive(address, requests, concurrency=48, seconds=seconds)

        asyncio.run(load(min(2.0, 4 * _SECONDS)))
        found = asyncio.run(load(4 * _SECONDS))
    assert not found.errors, found.details
    assert found.answers
    stages = {
        stage: round(float(np.median([answer["timings_ms"][stage] for answer in found.answers])), 2)
        for stage in found.answers[0]["timings_ms"]
    }
    assert found.answers[0]["model"]["engine"] == "tensorrt"
    record(http_frames_per_s=round(found.per_s * 64), requests_per_s=round(found.per_s, 1), median_ms=stages)
