"""Which rows run together, and who gets which of them back."""

from __future__ import annotations

import asyncio
import threading

import numpy as np

from service.batcher import Batcher
from tests.batcher.conftest import rows, soon
from tests.batcher.engines import FakeEngine


async def test_a_lone_request_gets_its_rows_at_once(batcher: Batcher, engine: FakeEngine) -> None:
    await batcher.run(engine, "encoder", rows(1), deadline=soon())
    waits = [(await batcher.run(engine, "encoder", rows(3), deadline=soon())).queue_s for _ in range(20)]
    assert sorted(waits)[10] < 0.001


async def test_requests_that_wait_together_run_together_and_each_gets_its_own(
    batcher: Batcher, engine: FakeEngine
) -> None:
    engine.gate.clear()
    first = asyncio.create_task(batcher.run(engine, "encoder", rows(1, value=9), deadline=soon()))
    await asyncio.to_thread(engine.entered.wait, 10)
    others = [
        asyncio.create_task(batcher.run(engine, "encoder", rows(4, value=value), deadline=soon())) for value in range(4)
    ]
    await asyncio.sleep(0)
    engine.gate.set()
    answers = await asyncio.gather(first, *others)
    assert engine.batches == [("encoder", 1), ("encoder", 16)]
    assert [answer.batch_size for answer in answers] == [1, 16, 16, 16, 16]
    assert [answer.outputs["features"][0, 0] for answer in answers] == [18, 0, 2, 4, 6]


async def test_padding_never_reaches_the_caller(batcher: Batcher, engine: FakeEngine) -> None:
    answer = await batcher.run(engine, "encoder", rows(13), deadline=soon())
    assert engine.batches == [("encoder", 16)]
    assert answer.outputs["features"].shape == (13, 3)
    assert answer.batch_size == 13


async def test_more_rows_than_one_batch_holds_come_back_in_order(batcher: Batcher, engine: FakeEngine) -> None:
    many = np.arange(150, dtype=np.float32)[:, None]
    answer = await batcher.run(engine, "encoder", many, deadline=soon())
    assert np.array_equal(answer.outputs["features"], many * 2)
    assert max(size for _, size in engine.batches) == 64


async def test_heads_of_different_lengths_never_share_a_batch_and_are_not_padded(
    batcher: Batcher, engine: FakeEngine
) -> None:
    engine.gate.clear()
    first = asyncio.create_task(batcher.run(engine, "encoder", rows(1), deadline=soon()))
    await asyncio.to_thread(engine.entered.wait, 10)
    heads = [
        asyncio.create_task(batcher.run(engine, "head", np.ones((1, length, 3), np.float32), deadline=soon()))
        for length in (7, 5, 7, 7)
    ]
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(first, *heads)
    assert engine.batches[1:] == [("head", 3), ("head", 1)]


async def test_everything_runs_on_one_thread(batcher: Batcher, engine: FakeEngine) -> None:
    opened_on = await batcher.call(threading.get_ident)
    await asyncio.gather(*(batcher.run(engine, "encoder", rows(2), deadline=soon()) for _ in range(20)))
    assert engine.threads == {opened_on}
    assert opened_on != threading.get_ident()
