"""Whoever gives up, or whose time is over, is answered at once and costs no engine time."""

from __future__ import annotations

import asyncio
import time

import pytest

from service.batcher import Batcher
from service.errors import DeadlineExceeded
from tests.batcher.conftest import rows, running, soon
from tests.batcher.engines import FakeEngine


async def test_past_its_deadline_a_request_costs_no_engine_time(batcher: Batcher, engine: FakeEngine) -> None:
    with pytest.raises(DeadlineExceeded):
        await batcher.run(engine, "encoder", rows(4), deadline=time.monotonic() - 1)
    assert engine.batches == []


async def test_a_cancelled_request_costs_no_engine_time(batcher: Batcher, engine: FakeEngine) -> None:
    engine.gate.clear()
    first = asyncio.create_task(batcher.run(engine, "encoder", rows(1), deadline=soon()))
    await asyncio.to_thread(engine.entered.wait, 10)
    second = asyncio.create_task(batcher.run(engine, "encoder", rows(8), deadline=soon()))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    engine.gate.set()
    await first
    await batcher.call(lambda: None)
    assert engine.batches == [("encoder", 1)]


async def test_a_request_is_answered_at_its_deadline_and_not_when_its_batch_would_have_run(
    batcher: Batcher, engine: FakeEngine
) -> None:
    first = await running(batcher, engine)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await batcher.run(engine, "encoder", rows(4), deadline=began + 0.05)
    assert 0.04 < time.monotonic() - began < 1
    assert batcher.queued_rows == 0, "its rows are withdrawn at once"
    engine.gate.set()
    await first
    await batcher.call(lambda: None)
    assert engine.batches == [("encoder", 1)]


async def test_what_ran_too_long_is_answered_at_the_deadline_too(batcher: Batcher, engine: FakeEngine) -> None:
    engine.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await batcher.run(engine, "encoder", rows(1), deadline=time.monotonic() + 0.05)
    engine.gate.set()
    assert (await batcher.run(engine, "encoder", rows(2), deadline=soon())).batch_size == 2
