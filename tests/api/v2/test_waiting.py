"""Tensors that wait for the device: their deadline, their priority, and a client that hangs up."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import numpy as np

from tests.api.house import Call, House


def infer(at: House, **parameters: Any) -> Call:
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    said = {"name": "frames", "datatype": "UINT8", "shape": frames.shape, "data": frames.tolist()}
    body = json.dumps({"inputs": [said], "parameters": parameters}).encode()
    return Call(at.app, "/v2/models/color.encoder/infer", body)


async def test_a_deadline_in_the_body_ends_the_wait_and_costs_no_engine_time(house: House) -> None:
    async with house.busy():
        call, began = infer(house, timeout=300_000), time.monotonic()
        await call.start()
        assert 0.25 < time.monotonic() - began < 5
    assert (call.status, call.document["code"]) == (504, "deadline_exceeded")
    assert "no answer within 300 ms" in call.document["error"]
    assert house.state.registry.queued_rows == house.state.admission.requests == house.state.admission.bytes == 0
    assert house.counted('marey_batch_rows_count{stage="encoder"}') == 0
    (stats,) = [each for each in await statistics(house) if each["name"] == "color.encoder"]
    assert (stats["inference_stats"]["fail"]["count"], stats["inference_count"]) == (1, 0)


async def test_a_client_that_hangs_up_gives_its_place_back_and_costs_no_engine_time(house: House) -> None:
    async with house.busy():
        call = infer(house)
        task = call.start()
        await house.until(lambda: house.state.registry.queued_rows == 2)
        assert house.state.admission.bytes > 2 * 16 * 16 * 3
        call.gone.set()
        await task
        assert house.state.registry.queued_rows == house.state.admission.requests == house.state.admission.bytes == 0
    assert house.counted('marey_requests_total{code="client_gone",route="/v2/models/{name}/infer",status="499"}') == 1
    assert house.counted('marey_batch_rows_count{stage="encoder"}') == 0


async def test_what_is_below_the_first_priority_waits_as_bulk(house: House) -> None:
    async with house.busy():
        waiting = [infer(house, priority=priority).start() for priority in (0, 1, 2, 7)]
        await house.until(lambda: house.state.registry.queued_rows == 8)
        assert house.counted('marey_queue_entries{priority="interactive"}') == 2
        assert house.counted('marey_queue_entries{priority="bulk"}') == 2
    await asyncio.gather(*waiting)


async def statistics(at: House) -> list[dict[str, Any]]:
    call = Call(at.app, "/v2/models/stats", b"", method="GET")
    await call.start()
    return list(call.document["model_stats"])
