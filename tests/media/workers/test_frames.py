"""A long video in stretches: its worker waits for the reader, and is free once the reader leaves."""

import asyncio
import os
import signal
from contextlib import aclosing

import numpy as np
import psutil
import pytest

from service.bundle.manifest import Input
from service.errors import DecodeFailed, TooLong, UnsupportedMedia
from service.media.frames import Windows
from service.media.limits import Limits
from service.media.workers import DecodePool
from tests.media.conftest import Hostile
from tests.media.workers.conftest import until, works

pytestmark = pytest.mark.timeout(60)

LONG = Windows(window_s=2.0, stride_s=1.0, frames=16)


@pytest.mark.data
async def test_frames_come_in_stretches_and_the_worker_is_free_afterwards(
    pool: DecodePool, hostile: dict[str, Hostile], spec: Input, picture: bytes
) -> None:
    pid = await pool.submit(os.getpid)
    for source in (hostile["h264.mp4"].path, hostile["h264.mp4"].path.read_bytes()):
        found = [stretch async for stretch in pool.frames(source, spec=spec, plan=LONG)]
        whole = (await pool.video(source, spec=spec, plan=LONG)).clip
        assert (np.concatenate([stretch.frames for stretch in found]) == whole.frames).all()
        assert found[-1].info == whole.source
        assert found[-1].progress_s == pytest.approx(found[-1].claimed_s, abs=0.1)
    with pytest.raises(UnsupportedMedia):
        _ = [stretch async for stretch in pool.frames(b"plain words", spec=spec, plan=LONG)]
    limits = Limits(max_duration_s=1.0)
    with pytest.raises(TooLong, match="at most 1 s"):
        _ = [stretch async for stretch in pool.frames(source, spec=spec, plan=LONG, limits=limits)]
    assert await pool.submit(os.getpid) == pid
    assert await works(pool, picture, spec)


@pytest.mark.data
async def test_leaving_early_frees_the_worker_at_once(hostile: dict[str, Hostile], spec: Input, picture: bytes) -> None:
    async with DecodePool(size=1) as pool:
        await pool.warm()
        pid = await pool.submit(os.getpid)
        async with aclosing(pool.frames(hostile["long_110s.mp4"].path, spec=spec, plan=LONG)) as stretches:
            async for stretch in stretches:
                assert stretch.info is None
                break
        assert pool._turns.running == 0
        assert await works(pool, picture, spec)
        await until(lambda: not psutil.pid_exists(pid))


@pytest.mark.data
async def test_the_worker_waits_for_a_slow_reader_who_may_take_longer_than_a_decode(
    hostile: dict[str, Hostile], picture: bytes
) -> None:
    spec = Input(height=224, width=224)
    async with DecodePool(size=1, timeout_s=1.0) as pool:
        await pool.warm()
        (worker,) = pool._workers
        process = psutil.Process(worker.process.pid)
        async with aclosing(pool.frames(hostile["long_110s.mp4"].path, spec=spec, plan=LONG)) as stretches:
            await anext(stretches)
            # Once its socket is full it sleeps: what nobody reads is not decoded.
            await until(lambda: process.status() == psutil.STATUS_SLEEPING)
            used = process.cpu_times()
            await asyncio.sleep(1.5)
            assert process.cpu_times().user - used.user < 0.1
            await anext(stretches)


@pytest.mark.data
async def test_a_worker_killed_in_the_middle_of_a_video_fails_its_reader_alone(
    pool: DecodePool, hostile: dict[str, Hostile], spec: Input, picture: bytes
) -> None:
    pid = await pool.submit(os.getpid)
    stretches = pool.frames(hostile["long_110s.mp4"].path, spec=spec, plan=LONG)
    await anext(stretches)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DecodeFailed, match="was killed"):
        _ = [stretch async for stretch in stretches]
    assert await works(pool, picture, spec)
