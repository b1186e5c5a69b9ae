"""A batch is sent while the one before computes, where waiting would not make it larger."""

from __future__ import annotations

import asyncio

from service.batcher import Batcher
from service.waiting import Rows
from tests.batcher.conftest import rows, soon
from tests.batcher.engines import FakeGpu


async def behind_a_first(batcher: Batcher, gpu: FakeGpu, *sizes: int) -> list[Rows]:
    """Let requests of these sizes wait while the device is busy with one row, then let it go on."""
    gpu.gate.clear()
    first = asyncio.create_task(batcher.run(gpu, "encoder", rows(1), deadline=soon()))
    await asyncio.to_thread(gpu.entered.wait, 10)
    others = [
        asyncio.create_task(batcher.run(gpu, "encoder", rows(size, value=size), deadline=soon())) for size in sizes
    ]
    await asyncio.sleep(0)
    gpu.gate.set()
    await first
    return await asyncio.gather(*others)


async def test_a_full_batch_is_sent_while_the_one_before_computes(batcher: Batcher, gpu: FakeGpu) -> None:
    answers = await behind_a_first(batcher, gpu, 64, 64)
    assert gpu.log[2:] == [("begin", 64), ("begin", 64), ("finish", 64), ("finish", 64)]
    assert all((answer.outputs["features"] == 128).all() for answer in answers)


async def test_a_batch_that_can_still_grow_waits_until_the_device_is_free(batcher: Batcher, gpu: FakeGpu) -> None:
    answers = await behind_a_first(batcher, gpu, 64, 3)
    assert gpu.log[2:] == [("begin", 64), ("finish", 64), ("begin", 3), ("finish", 3)]
    assert [answer.outputs["features"][0, 0] for answer in answers] == [128, 6]


async def test_rows_that_need_two_batch_sizes_never_join_one_under_way(batcher: Batcher, gpu: FakeGpu) -> None:
    await behind_a_first(batcher, gpu, 64, 40, 30)  # 40 run as 32 and 8: that is two by itself
    assert gpu.log[2:4] == [("begin", 64), ("finish", 64)]
    assert ("encoder", 40) in gpu.batches
