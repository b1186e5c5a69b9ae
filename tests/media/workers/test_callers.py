"""Callers who wait for a worker, and those who hang up."""

import asyncio
import os
import signal
import time

import psutil
import pytest

from service.bundle.manifest import Input
from service.media.workers import DecodePool
from tests.media.workers.conftest import until, works

pytestmark = pytest.mark.timeout(60)


async def test_cancelling_the_caller_ends_the_work(pool: DecodePool, picture: bytes, spec: Input) -> None:
    pid = await pool.submit(os.getpid)
    task = asyncio.create_task(pool.submit(time.sleep, 60))
    await until(lambda: pool._turns.running and not pool.waiting)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await works(pool, picture, spec)
    assert await pool.submit(os.getpid) != pid
    await until(lambda: not psutil.pid_exists(pid))


async def test_a_caller_that_hangs_up_leaves_its_worker_the_time_to_end(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=1, grace_s=20) as pool:
        await pool.warm()
        pid = await pool.submit(os.getpid)
        task = asyncio.create_task(pool.submit(time.sleep, 0.2))
        await until(lambda: pool._turns.running and not pool.waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The next call gets its own answer, not that of the one before, and from the same process.
        assert await pool.submit(os.getpid) == pid
        assert await works(pool, picture, spec)


async def test_a_caller_that_hangs_up_while_it_sends_costs_a_worker(
    pool: DecodePool, picture: bytes, spec: Input
) -> None:
    pid = await pool.submit(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    task = asyncio.create_task(pool.submit(len, bytes(8 << 20)))
    await until(lambda: any(not worker.told for worker in pool._workers))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await works(pool, picture, spec)
    assert await pool.submit(os.getpid) != pid


async def test_bulk_calls_leave_a_worker_to_the_others(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=2) as pool:
        await pool.warm()
        bulk = [asyncio.create_task(pool._call("other", "bulk", time.sleep, 60)) for _ in range(3)]
        await until(lambda: pool.waiting == 2)
        assert await works(pool, picture, spec)
        assert pool._turns.running == 1
        for task in bulk:
            task.cancel()
        await asyncio.gather(*bulk, return_exceptions=True)


async def test_the_time_to_an_answer_is_told_from_what_calls_took_of_late(
    pool: DecodePool, picture: bytes, spec: Input
) -> None:
    assert pool.expected_wait_s("image", "interactive") == 0.0
    assert await works(pool, picture, spec)
    usual = pool.expected_wait_s("image", "interactive")
    assert 0.0 < usual < 5.0
    busy = asyncio.create_task(pool.submit(time.sleep, 0.5))
    await until(lambda: pool._turns.running and not pool.waiting)
    waiting = [asyncio.create_task(pool.image(picture, spec=spec)) for _ in range(2)]
    await until(lambda: pool.waiting == 2)
    assert pool.waiting_s("interactive") == pytest.approx(2 * usual)
    assert pool.expected_wait_s("image", "interactive") == pytest.approx(3 * usual)
    await asyncio.gather(busy, *waiting)
    assert pool.waiting_s("interactive") == pool.running_s("interactive") == 0.0


async def test_a_caller_that_gives_up_while_waiting_costs_nothing(
    pool: DecodePool, picture: bytes, spec: Input
) -> None:
    pid = await pool.submit(os.getpid)
    busy = asyncio.create_task(pool.submit(time.sleep, 0.3))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(pool.image(picture, spec=spec)) for _ in range(3)]
    await until(lambda: pool.waiting == 3)
    waiting[1].cancel()
    await busy
    assert (await waiting[0]).clip.frames.shape == (await waiting[2]).clip.frames.shape
    assert pool.waiting == 0
    assert await pool.submit(os.getpid) == pid
