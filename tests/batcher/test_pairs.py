"""A clip through encoder and head: the head follows before others have their turn."""

from __future__ import annotations

import asyncio

import pytest

from service.batcher import Batcher
from tests.batcher.conftest import rows, running, soon
from tests.batcher.engines import FakePair


async def test_the_head_follows_its_encoder_before_others_have_their_turn(batcher: Batcher) -> None:
    engine = FakePair()
    first = await running(batcher, engine)
    clips = [
        asyncio.create_task(batcher.run_clip(engine, rows(count, value=value), deadline=soon()))
        for count, value in ((2, 3), (2, 4), (3, 5))
    ]
    await asyncio.sleep(0)
    late = asyncio.create_task(batcher.run(engine, "encoder", rows(60), deadline=soon()))
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(first, late)
    said = await asyncio.gather(*clips)
    assert engine.batches == [("encoder", 1), ("encoder", 8), ("head", 2), ("head", 1), ("encoder", 64)], "with padding"
    assert [float(judged.outputs["probabilities"][0, 0]) for _, judged in said] == [36, 48, 90]
    assert [(encoded.batch_size, judged.batch_size) for encoded, judged in said] == [(7, 2), (7, 2), (7, 1)]
    assert batcher.pending_rows == 0


async def test_a_clip_of_more_frames_than_a_batch_holds_goes_through_both_networks(batcher: Batcher) -> None:
    engine = FakePair()
    encoded, judged = await batcher.run_clip(engine, rows(150), deadline=soon())
    assert encoded.outputs["features"].shape == (150, 3)
    assert judged.outputs["probabilities"].tolist() == [[900.0]]


async def test_a_clip_that_is_given_up_while_its_encoder_runs_never_reaches_the_head(batcher: Batcher) -> None:
    engine = FakePair()
    engine.gate.clear()
    given_up = asyncio.create_task(batcher.run_clip(engine, rows(2), deadline=soon()))
    await asyncio.to_thread(engine.entered.wait, 10)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    engine.gate.set()
    await batcher.call(lambda: None)
    assert engine.batches == [("encoder", 2)]
    assert batcher.pending_rows == 0


async def test_each_batch_is_counted_as_what_it_was_and_not_as_what_its_members_do_next() -> None:
    counted: list[tuple[str, int]] = []
    made = Batcher(max_queued_rows=200, observe=lambda stage, count, _seconds: counted.append((stage, count)))
    made.start()
    await made.run_clip(FakePair(), rows(5), deadline=soon())
    await made.call(lambda: None)
    made.close()
    assert counted == [("encoder", 5), ("head", 1)]
