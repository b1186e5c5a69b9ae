"""Three times more than the service can do, and a stop in the middle of the work: a real server with a real network."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.bench.arrivals import Answered, offer, poisson
from service.bench.load import Address, drive, request
from service.bench.overload_report import Check, Figures, Round, judged
from service.bench.samples import made_samples
from tests.calm import Calm

IMAGENET = Path(__file__).parents[2] / "models" / "bundles" / "imagenet"
STRETCH_S = 1.5
ROUNDS = 4


@pytest.fixture(scope="module")
def imagenet(serve: Callable[..., Any]) -> Iterator[Any]:
    with serve(str(IMAGENET), MAREY_QUEUE_MS="100", MAREY_LOG_LEVEL="warning") as running:
        yield running


async def stretch(address: Address, requests: list[bytes], *, seed: int) -> Figures:
    """One at a time, as much as it can do, and three times that, one right after the other."""
    alone = await drive(address, requests, concurrency=1, seconds=STRETCH_S)
    capacity = max(
        [(await drive(address, requests, concurrency=level, seconds=STRETCH_S / 2)).per_s for level in (4, 8)]
    )
    due = poisson(3 * capacity, seconds=STRETCH_S, seed=seed)
    found = await offer(address, requests, due_s=due, patience_s=20)
    settled = STRETCH_S * 0.1
    good = sum(each.outcome == "accepted" and settled <= each.done_s <= STRETCH_S for each in found)
    goodput = good / (STRETCH_S - settled)
    made = Round(
        capacity_per_s=capacity,
        offered_per_s=3 * capacity,
        goodput_per_s=goodput,
        goodput=goodput / capacity,
        generator_cores=0,
    )
    return Figures.of(found, [made], unloaded_ms=alone.milliseconds)


def nearly(check: Check) -> bool:
    """A half more time than is asked for, or goodput a fifth below."""
    return check.value >= 0.8 * check.limit if check.what.startswith("goodput") else check.value <= 1.5 * check.limit


async def test_at_three_times_its_capacity_the_service_keeps_its_latency_and_its_throughput(imagenet: Any) -> None:
    """In one stretch of four at least, with room for a machine that is not ours alone; and skipped where others used it in all of them.

    `marey bench --overload 3` judges by the numbers themselves. No request is ever lost.
    """
    address = Address.parse(imagenet.url)
    requests = [request(address, "/classify/image", file=made_samples("image").files[0])]
    await drive(address, requests, concurrency=2, seconds=0.5)
    missed: list[str] = []
    disturbed: list[str] = []
    for seed in range(ROUNDS):
        machine = Calm([imagenet.process.pid])
        figures = await stretch(address, requests, seed=seed)
        assert figures.outcomes["refused"] > 0 < figures.outcomes["accepted"], figures
        assert set(figures.codes) == {"overloaded"}, figures
        assert not any(figures.outcomes[outcome] for outcome in ("failed", "hung", "lost")), figures
        checks = judged(figures, queue_ms=100, judges_goodput=True)
        if all(check.met or nearly(check) for check in checks):
            return
        (disturbed if (others := machine.disturbed()) else missed).append(
            f"{[str(check) for check in checks if not check.met]}; {others}"
        )
    if not missed:
        pytest.skip("never undisturbed: " + "; ".join(disturbed))
    pytest.fail("\n".join(missed))


def test_a_stop_under_load_answers_every_accepted_request_and_exits_with_zero(
    color_bundle: Any, serve: Callable[..., Any]
) -> None:
    """The decoders are held until all requests are in, so that the stop comes in the middle of every one of them."""
    picture = made_samples("image").files[0]
    with serve(str(color_bundle.path), MAREY_MAX_REQUESTS="32") as running:
        address = Address.parse(running.url)
        asked = [request(address, "/classify/image?priority=bulk", file=picture)] * 24
        decoders = psutil.Process(running.process.pid).children()
        for decoder in decoders:
            decoder.suspend()

        async def stop_in_the_middle() -> tuple[Answered, ...]:
            answering = asyncio.create_task(offer(address, asked, due_s=[0.0] * 24, patience_s=30))
            until = time.monotonic() + 20
            while "marey_requests_active 24.0" not in running.client.get("/metrics").text:
                assert time.monotonic() < until
                await asyncio.sleep(0.01)
            running.process.send_signal(signal.SIGTERM)
            for decoder in decoders:
                decoder.resume()
            return await answering

        answers = asyncio.run(stop_in_the_middle())
        assert running.process.wait(timeout=30) == 0
    assert [each.outcome for each in answers] == ["accepted"] * 24, {each.code for each in answers}


def test_a_stop_that_cannot_wait_any_longer_sends_its_requests_elsewhere(
    color_bundle: Any, serve: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """The decoders stay held until the service has lost its patience."""
    picture = made_samples("image").files[0]
    with serve(str(color_bundle.path), MAREY_DRAIN_S="1") as running, ThreadPoolExecutor() as asking:
        decoders = psutil.Process(running.process.pid).children()
        for decoder in decoders:
            decoder.suspend()
        answers = [asking.submit(running.post, "/classify/image", picture) for _ in range(2)]
        until = time.monotonic() + 20
        while "marey_requests_active 2.0" not in running.client.get("/metrics").text:
            assert time.monotonic() < until
        running.process.send_signal(signal.SIGTERM)
        found = [answer.result() for answer in answers]
        for decoder in decoders:
            with contextlib.suppress(psutil.NoSuchProcess):
                decoder.resume()
        assert running.process.wait(timeout=30) == 0
    for each in found:
        assert (each.status_code, each.json()["code"]) == (503, "draining")
        assert each.headers["retry-after"] == "1"
        assert each.json()["request_id"] == each.headers["x-request-id"]
    assert "Traceback" not in capfd.readouterr().err
