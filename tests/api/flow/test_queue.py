"""Requests that wait for the device: those that give up and those that are refused cost it nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.api.house import Call, House

Make = Callable[..., bytes]


async def test_a_request_in_the_queue_is_answered_at_its_deadline_and_costs_no_engine_time(
    house: House, make_picture: Make
) -> None:
    first = house.call(make_picture("red"))
    await first.start()
    assert first.status == 200
    ran = house.counted('marey_batch_rows_count{stage="encoder"}')
    async with house.busy():
        call, began = house.call(make_picture("red"), query="timeout_ms=300"), time.monotonic()
        await call.start()
        spent = time.monotonic() - began
    assert (call.status, call.document["code"]) == (504, "deadline_exceeded")
    assert "timeout_ms = 300" in call.document["detail"]
    assert 0.25 < spent < 2, "and not when the device was free again"
    assert house.state.registry.queued_rows == house.state.admission.requests == 0
    assert house.counted('marey_batch_rows_count{stage="encoder"}') == ran


async def test_a_client_that_hangs_up_in_the_queue_gives_its_place_back_and_costs_no_engine_time(
    house: House, make_picture: Make
) -> None:
    async with house.busy():
        call = house.call(make_picture("red"))
        task = call.start()
        await house.until(lambda: house.state.registry.queued_rows == 1)
        call.gone.set()
        await task
        assert house.state.registry.queued_rows == house.state.admission.requests == house.state.admission.rows == 0
    assert house.counted('marey_requests_total{code="client_gone",route="/classify/image",status="499"}') == 1
    assert house.counted('marey_batch_rows_count{stage="encoder"}') == 0


async def test_whoever_would_wait_too_long_is_refused_and_bulk_may_wait(house: House, make_picture: Make) -> None:
    picture = make_picture("red")
    for _ in range(3):
        await house.call(picture).start()
    batcher = house.state.registry.models[0].replicas[0].batcher
    engine = house.state.registry.models[0].replicas[0].engine
    batcher._device.pace.note((id(engine), "encoder"), units=1, seconds=5)  # as if it were a heavy network
    async with house.busy():
        first = house.call(picture)
        waiting = [first.start()]
        await house.until(lambda: house.state.registry.queued_rows == 1)
        refused = house.call(picture)
        await refused.start()
        assert (refused.status, refused.document["code"]) == (429, "overloaded")
        assert "this request may wait for 100 ms" in refused.document["detail"]
        headers = dict(refused.sent[0]["headers"])
        assert headers[b"content-type"] == b"application/problem+json"
        assert 1 <= int(headers[b"retry-after"]) <= 10
        bulk = house.call(picture, query="priority=bulk")
        waiting.append(bulk.start())
        await house.until(lambda: house.state.registry.queued_rows == 2)
        assert house.counted('marey_queue_entries{priority="bulk"}') == 1
        limit_s = house.counted("marey_queue_wait_limit_seconds")
        assert 1.45 * limit_s == pytest.approx(0.1)
        assert house.counted('marey_queue_wait_seconds{priority="interactive"}') > limit_s
        hopeless = house.call(picture, query="priority=bulk&timeout_ms=50")
        await hopeless.start()
        assert hopeless.status == 429
    await asyncio.gather(*waiting)
    assert (first.status, bulk.status) == (200, 200)
    assert house.counted('marey_refusals_total{reason="wait"}') == 2
    assert house.counted('marey_requests_total{code="overloaded",route="/classify/image",status="429"}') == 2


@pytest.mark.parametrize("path", ["/v2/models/color/infer", "/v2/models/color/versions/1.0.0/infer", "/jobs"])
async def test_the_other_routes_that_take_uploads_are_refused_at_the_door_too(house: House, path: str) -> None:
    house.state.phase = "draining"
    call = Call(house.app, path, b"")
    await call.start()
    assert (call.status, call.document["code"]) == (503, "draining")
    assert ("error" in call.document) is path.startswith("/v2")
    route = path.replace("color", "{name}").replace("1.0.0", "{version}")
    assert house.counted(f'marey_requests_total{{code="draining",route="{route}",status="503"}}') == 1
