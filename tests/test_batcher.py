"""The batcher, with a fake engine at its seam: it counts, waits and fails on command."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import pytest

from service.batcher import Batcher
from service.bundle.manifest import Stage
from service.engine.base import EngineInfo, Outputs
from service.errors import DeadlineExceeded, DeviceLost, Draining, EngineError, Overloaded
from service.gathered import Gathered
from service.pace import Line
from service.waiting import Rows


class FakeEngine:
    """Doubles what it is given; holds each run until `gate` is open."""

    info = EngineInfo("fake", "fp32", "fp32", "none")

    def __init__(self) -> None:
        self.batches: list[tuple[Stage, int]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fail = False
        self.drop_a_row = False

    def run(self, stage: Stage, rows: np.ndarray) -> dict[str, np.ndarray]:
        self.entered.set()
        self.gate.wait(timeout=10)
        self.batches.append((stage, len(rows)))
        self.threads.add(threading.get_ident())
        if self.fail:
            raise ZeroDivisionError("the device is on fire")
        doubled = rows.astype(np.float32) * 2
        return {"features": doubled[:-1] if self.drop_a_row else doubled}

    def close(self) -> None: ...


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def batcher() -> AsyncIterator[Batcher]:
    """Whose batches may take as long as they will: a gate says nothing about how fast an engine is."""
    made = Batcher(max_queued_rows=200, batch_s=float("inf"))
    made.start()
    yield made
    made.close()


def rows(count: int, *, value: int = 1, width: int = 3) -> np.ndarray:
    return np.full((count, width), value, np.uint8)


def soon() -> float:
    return time.monotonic() + 10


class FakePair(FakeEngine):
    """An encoder that doubles, and a head that sums each clip up."""

    def run(self, stage: Stage, rows: np.ndarray) -> dict[str, np.ndarray]:
        outputs = super().run(stage, rows)
        return outputs if stage == "encoder" else {"probabilities": rows.sum(axis=(1, 2))[:, None]}


class FakeClipEngine(FakeEngine):
    """A clip network whose batches hold four clips."""

    info = EngineInfo("fake", "fp32", "fp32", "none", 4, ("clip",))

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def run(self, stage: Stage, rows: np.ndarray) -> dict[str, np.ndarray]:
        self.shapes.append(rows.shape)
        return {"probabilities": super().run(stage, rows)["features"].mean(axis=(1, 2))[:, None]}


def clips(count: int, length: int, *, value: int = 1) -> np.ndarray:
    return np.full((count, length, 5), value, np.uint8)


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


async def test_everything_runs_on_one_thread(batcher: Batcher, engine: FakeEngine) -> None:
    opened_on = await batcher.call(threading.get_ident)
    await asyncio.gather(*(batcher.run(engine, "encoder", rows(2), deadline=soon()) for _ in range(20)))
    assert engine.threads == {opened_on}
    assert opened_on != threading.get_ident()


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


class FakeGpu(FakeEngine):
    """Works on its own: what was begun is computed when it is waited for, and only while `gate` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, int]] = []
        self.lost = False

    def begin(self, stage: Stage, blocks: Sequence[np.ndarray], *, bucket: int) -> Callable[[], Outputs]:
        if self.lost:
            raise DeviceLost("GPU 0 has failed; restart the service")
        rows = np.concatenate(blocks)
        self.log.append(("begin", len(rows)))
        self.entered.set()
        assert len(rows) <= bucket
        under_way = sum(1 if what == "begin" else -1 for what, _ in self.log)
        assert under_way <= 2, "more than two batches under way"

        def finish() -> Outputs:
            outputs = self.run(stage, rows)
            self.log.append(("finish", len(rows)))
            return outputs

        return finish


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


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


async def running(batcher: Batcher, engine: FakeEngine, *, stage: Stage = "encoder") -> asyncio.Task[Rows]:
    """A request of one row that the device is busy with until the gate is opened."""
    engine.gate.clear()
    task = asyncio.create_task(batcher.run(engine, stage, rows(1), deadline=soon()))
    await asyncio.to_thread(engine.entered.wait, 10)
    return task


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
