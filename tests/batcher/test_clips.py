"""Clip networks: whole clips of one length in a batch, and a queue that counts their frames."""

from __future__ import annotations

import asyncio
import tracemalloc

import numpy as np
import pytest

from service.batcher import Batcher
from service.errors import Overloaded
from service.gathered import Gathered
from tests.batcher.conftest import soon
from tests.batcher.engines import FakeClipEngine


def clips(count: int, length: int, *, value: int = 1) -> np.ndarray:
    return np.full((count, length, 5), value, np.uint8)


async def test_clips_of_equal_length_share_a_batch_of_a_warmed_size_and_others_never(batcher: Batcher) -> None:
    engine = FakeClipEngine()
    engine.gate.clear()
    first = asyncio.create_task(batcher.run(engine, "clip", clips(1, 8), deadline=soon()))
    await asyncio.to_thread(engine.entered.wait, 10)
    asked = [(1, 8, 3), (1, 6, 4), (2, 8, 5), (1, 8, 6), (2, 6, 7)]
    others = [
        asyncio.create_task(batcher.run(engine, "clip", clips(count, length, value=value), deadline=soon()))
        for count, length, value in asked
    ]
    await asyncio.sleep(0)
    engine.gate.set()
    await first
    answers = await asyncio.gather(*others)
    assert engine.shapes[1:] == [(4, 8, 5), (4, 6, 5)], "four clips of 8 frames; three of 6, and padding for a fourth"
    for (count, _, value), answer in zip(asked, answers, strict=True):
        assert answer.outputs["probabilities"].tolist() == [[2 * value]] * count


async def test_the_queue_counts_a_clip_as_its_frames(batcher: Batcher) -> None:
    engine = FakeClipEngine()
    engine.gate.clear()
    waiting = [asyncio.create_task(batcher.run(engine, "clip", clips(1, 60), deadline=soon()))]
    await asyncio.to_thread(engine.entered.wait, 10)
    waiting += [asyncio.create_task(batcher.run(engine, "clip", clips(1, 60), deadline=soon())) for _ in range(3)]
    await asyncio.sleep(0)
    assert (batcher.queued_rows, batcher.pending_rows) == (180, 240)
    with pytest.raises(Overloaded, match="180 rows wait for the device, the limit is 200"):
        await batcher.run(engine, "clip", clips(1, 60), deadline=soon())
    engine.gate.set()
    await asyncio.gather(*waiting)
    assert (batcher.queued_rows, batcher.pending_rows) == (0, 0)


async def test_the_windows_of_a_long_video_are_made_batch_by_batch(batcher: Batcher) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2000, 64), np.uint8)
    numbers = np.arange(1900)[:, None] + np.arange(0, 64, 4)
    engine = FakeClipEngine()
    tracemalloc.start()
    try:
        answer = await batcher.run(engine, "clip", Gathered(frames, numbers), deadline=soon())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.outputs["probabilities"][:, 0] == pytest.approx(2.0 * frames[numbers].mean(axis=(1, 2)), rel=1e-5)
    assert set(engine.shapes) == {(4, 16, 64)}
    assert peak < frames[numbers].nbytes, "all windows at once are more than all else that is needed"
