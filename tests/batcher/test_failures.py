"""Engines that fail, a device that is lost and a batcher that closes: everybody who waits is answered."""

from __future__ import annotations

import asyncio

import pytest

from service.batcher import Batcher
from service.bundle.manifest import Stage
from service.errors import DeviceLost, Draining, EngineError
from tests.batcher.conftest import rows, soon
from tests.batcher.engines import FakeEngine, FakeGpu


async def test_a_failing_batch_answers_every_member_and_the_next_one_runs(batcher: Batcher, engine: FakeEngine) -> None:
    engine.fail = True
    answers = await asyncio.gather(
        *(batcher.run(engine, "encoder", rows(2), deadline=soon()) for _ in range(5)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [EngineError] * 5
    assert "on fire" in str(answers[0])
    engine.fail = False
    assert (await batcher.run(engine, "encoder", rows(2), deadline=soon())).batch_size == 2
    assert batcher.alive


async def test_an_engine_that_loses_a_row_is_caught(batcher: Batcher, engine: FakeEngine) -> None:
    engine.drop_a_row = True
    with pytest.raises(EngineError, match="3 rows of features for 4 rows of input"):
        await batcher.run(engine, "encoder", rows(4), deadline=soon())


async def test_closing_answers_those_who_wait_and_refuses_new_ones(engine: FakeEngine) -> None:
    batcher = Batcher(max_queued_rows=200)
    batcher.start()
    engine.gate.clear()
    running = asyncio.create_task(batcher.run(engine, "encoder", rows(1), deadline=soon()))
    await asyncio.to_thread(engine.entered.wait, 10)
    waiting = asyncio.create_task(batcher.run(engine, "head", rows(1), deadline=soon()))
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(batcher.close))
    while not batcher._device._closing:  # noqa: ASYNC110  # it is set by another thread
        await asyncio.sleep(0)
    engine.gate.set()
    await closing
    assert (await running).batch_size == 1
    with pytest.raises(Draining):
        await waiting
    with pytest.raises(Draining):
        await batcher.run(engine, "encoder", rows(1), deadline=soon())
    assert not batcher.alive


async def test_a_failure_under_way_reaches_its_own_callers_only(batcher: Batcher, gpu: FakeGpu) -> None:
    gpu.gate.clear()
    first = asyncio.create_task(batcher.run(gpu, "encoder", rows(1), deadline=soon()))
    await asyncio.to_thread(gpu.entered.wait, 10)
    gpu.fail = True
    gpu.gate.set()
    with pytest.raises(EngineError, match="the device is on fire"):
        await first
    gpu.fail = False
    assert (await batcher.run(gpu, "encoder", rows(2), deadline=soon())).batch_size == 2
    assert batcher.pending_rows == 0


async def test_an_observer_that_fails_keeps_nobody_waiting(engine: FakeEngine) -> None:
    def fail(_stage: Stage, _rows: int, _seconds: float) -> None:
        raise RuntimeError("no room for figures")

    made = Batcher(max_queued_rows=200, observe=fail)
    made.start()
    for _ in range(2):
        assert (await asyncio.wait_for(made.run(engine, "encoder", rows(2), deadline=soon()), 10)).batch_size == 2
    assert made.alive
    made.close()


async def test_a_lost_device_ends_the_thread_and_answers_everybody(batcher: Batcher, gpu: FakeGpu) -> None:
    gpu.gate.clear()
    first = asyncio.create_task(batcher.run(gpu, "encoder", rows(1), deadline=soon()))
    await asyncio.to_thread(gpu.entered.wait, 10)
    waiting = [asyncio.create_task(batcher.run(gpu, "encoder", rows(64), deadline=soon())) for _ in range(3)]
    await asyncio.sleep(0)
    gpu.lost = True
    gpu.gate.set()
    assert (await first).batch_size == 1
    for task in waiting:
        with pytest.raises(DeviceLost, match="restart the service"):
            await task
    await asyncio.to_thread(batcher._device._thread.join, 10)
    assert not batcher.alive
    with pytest.raises(DeviceLost, match="restart the service"):
        await batcher.run(gpu, "encoder", rows(1), deadline=soon())
