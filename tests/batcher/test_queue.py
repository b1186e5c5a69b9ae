"""The queue: its limit, its order, and how long it says that it is."""

from __future__ import annotations

import asyncio
import time

import pytest

from service.batcher import Batcher
from service.errors import Overloaded
from service.pace import Line
from tests.batcher.conftest import rows, running, soon
from tests.batcher.engines import FakeEngine


async def test_interactive_requests_pass_bulk_ones(batcher: Batcher, engine: FakeEngine) -> None:
    engine.gate.clear()
    order: list[str] = []

    async def ask(name: str, count: int, priority: str) -> None:
        await batcher.run(engine, "encoder", rows(count), deadline=soon(), priority=priority)  # type: ignore[arg-type]
        order.append(name)

    first = asyncio.create_task(ask("first", 1, "interactive"))
    await asyncio.to_thread(engine.entered.wait, 10)
    rest = [asyncio.create_task(ask("bulk", 64, "bulk")), asyncio.create_task(ask("interactive", 64, "interactive"))]
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(first, *rest)
    assert order == ["first", "interactive", "bulk"]


async def test_a_full_queue_refuses_and_says_when_to_come_back(batcher: Batcher, engine: FakeEngine) -> None:
    engine.gate.clear()
    first = asyncio.create_task(batcher.run(engine, "encoder", rows(1), deadline=soon()))
    await asyncio.to_thread(engine.entered.wait, 10)
    waiting = asyncio.create_task(batcher.run(engine, "encoder", rows(120), deadline=soon()))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="120 rows wait for the device, the limit is 200") as refusal:
        await batcher.run(engine, "encoder", rows(90), deadline=soon())
    assert refusal.value.retry_after_s is not None
    engine.gate.set()
    await asyncio.gather(first, waiting)


async def test_a_long_video_has_two_batches_in_the_queue_and_others_come_between(
    batcher: Batcher, engine: FakeEngine
) -> None:
    first = await running(batcher, engine)
    order: list[str] = []

    async def ask(name: str, count: int) -> None:
        await batcher.run(engine, "encoder", rows(count), deadline=soon())
        order.append(name)

    video = asyncio.create_task(ask("video", 640))
    await asyncio.sleep(0)
    image = asyncio.create_task(ask("image", 1))
    await asyncio.sleep(0)
    assert batcher.queued_rows == 2 * 64 + 1
    engine.gate.set()
    await asyncio.gather(first, video, image)
    assert order == ["image", "video"]
    assert engine.batches.index(("encoder", 1), 1) <= 3, "behind the two that waited before it"
    assert sum(count for _, count in engine.batches) == 642


async def test_bulk_yields_and_still_gets_its_share(batcher: Batcher) -> None:
    """Interactive requests without a pause for as long as it takes: bulk ones must get through."""
    slow = FakeEngine()
    slow.run = lambda stage, rows: time.sleep(0.002 * len(rows)) or FakeEngine.run(slow, stage, rows)  # type: ignore[method-assign]
    done = asyncio.Event()
    ran = {"interactive": 0, "bulk": 0}

    async def client(priority: str, count: int) -> None:
        while not done.is_set():
            await batcher.run(slow, "encoder", rows(count), deadline=soon(), priority=priority)  # type: ignore[arg-type]
            ran[priority] += count
            if ran["bulk"] >= 40 and ran["interactive"] >= 40:
                done.set()

    async with asyncio.timeout(20):
        # Of shapes that cannot share a batch, so that nobody rides along.
        await asyncio.gather(*(client("interactive", 16) for _ in range(8)), *(client("bulk", 4) for _ in range(2)))
    assert ran["interactive"] > 4 * ran["bulk"], ran


async def test_the_line_is_what_was_measured_of_each_network(batcher: Batcher) -> None:
    quick, slow = FakeEngine(), FakeEngine()
    slow.run = lambda stage, rows: time.sleep(0.02 * len(rows)) or FakeEngine.run(slow, stage, rows)  # type: ignore[method-assign]
    assert batcher.line("interactive") == Line(0, 0)
    for _ in range(10):
        await batcher.run(quick, "encoder", rows(1), deadline=soon())
        await batcher.run(slow, "encoder", rows(1), deadline=soon())
    first = await running(batcher, quick)
    waiting = [
        asyncio.create_task(batcher.run(engine, "encoder", rows(10), deadline=soon(), priority=priority))
        for engine, priority in ((quick, "interactive"), (slow, "interactive"), (slow, "bulk"))
    ]
    await asyncio.sleep(0)
    interactive, bulk = batcher.line("interactive").waiting_s, batcher.line("bulk").waiting_s
    quick.gate.set()
    await asyncio.gather(first, *waiting)
    assert 0.2 <= interactive < 0.35
    assert interactive + 0.03 <= bulk, "behind those of its own kind, too"
    assert batcher.line("bulk") == Line(0, 0)


@pytest.mark.parametrize(("row_s", "batch"), [(0.005, 4), (1.0, 1), (0.0001, 64)])
async def test_bulk_is_sent_in_parts_that_keep_nobody_waiting(engine: FakeEngine, row_s: float, batch: int) -> None:
    made = Batcher(max_queued_rows=200, batch_s=0.03)
    made._device.pace.note((id(engine), "encoder"), units=1, seconds=row_s)
    made.start()
    first = await running(made, engine)
    bulk = asyncio.create_task(made.run(engine, "encoder", rows(128), deadline=soon(), priority="bulk"))
    await asyncio.sleep(0)
    assert made.queued_rows == 2 * batch, "two parts at a time"
    engine.gate.set()
    await asyncio.gather(first, bulk)
    assert bulk.result().outputs["features"].shape == (128, 3)
    made.close()
