"""Workers start, are replaced and end, and never outlive the pool or its process."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from service.bundle.manifest import Input
from service.errors import Draining, NotReady
from service.media.workers import DecodePool
from tests.media.workers.conftest import until, works

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(60)


async def test_workers_are_replaced_after_so_many_calls_without_a_pause() -> None:
    async with DecodePool(size=1, calls_per_worker=5) as pool:
        await pool.warm()
        first = await pool.submit(os.getpid)
        pids = {first}
        deadline = time.monotonic() + 30
        while len(pids) < 3:
            pids.add(await pool.submit(os.getpid))
            assert time.monotonic() < deadline
        await until(lambda: not psutil.pid_exists(first))
        # Whoever is relieved while it has nothing to do leaves at once.
        while pool._boots:
            await asyncio.gather(*pool._boots)
        assert len(pool._workers) == len(pool._ready) == 1


async def test_the_pool_fails_those_who_wait_when_no_worker_comes_up_and_comes_back_by_itself(
    picture: bytes, spec: Input
) -> None:
    async with DecodePool(size=2, memory_bytes=1 << 70, pause_s=0.05) as pool:
        with pytest.raises(NotReady, match=r"fail to start, \d times in a row, and are tried again in \d+ s") as caught:
            await pool.submit(os.getpid)
        assert caught.value.retry_after_s
        assert not pool.alive
        with pytest.raises(NotReady):
            await pool.warm()
        pool.memory_bytes = 4 << 30  # what kept them from starting is mended
        await until(lambda: pool.alive and len(pool._ready) == 2)
        assert await works(pool, picture, spec)
        pool.check()


async def test_a_successor_that_fails_to_start_leaves_the_old_worker_at_its_place(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=1, calls_per_worker=2, pause_s=60) as pool:
        await pool.warm()
        pid = await pool.submit(os.getpid)
        pool.memory_bytes = 1 << 70
        for _ in range(6):
            assert await pool.submit(os.getpid) == pid
            while pool._boots:
                await asyncio.gather(*pool._boots)
        assert pool._failed_boots >= 3
        assert pool.alive
        assert await works(pool, picture, spec)


async def test_a_pool_that_is_not_started_or_closed_says_so(spec: Input) -> None:
    pool = DecodePool(size=1)
    assert not pool.alive
    with pytest.raises(NotReady, match="not started"):
        await pool.image(b"x", spec=spec)
    await pool.start()
    assert pool.alive
    running = asyncio.create_task(pool.submit(time.sleep, 60))
    await pool.warm()
    await until(lambda: pool._turns.running and not pool.waiting)
    await pool.close()
    with pytest.raises(Draining):
        await running
    with pytest.raises(Draining):
        await pool.image(b"x", spec=spec)
    assert not pool.alive


async def test_no_process_is_left_behind_when_the_pool_closes() -> None:
    async with DecodePool(size=2) as pool:
        await pool.warm()
        pids = [worker.process.pid for worker in pool._workers]
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    gc.collect()


async def test_ctrl_c_and_sigterm_do_not_stop_a_worker_at_its_task(pool: DecodePool) -> None:
    pid = await pool.submit(os.getpid)
    task = asyncio.create_task(pool.submit(time.sleep, 0.3))
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    await task
    assert await pool.submit(os.getpid) == pid
    assert os.getpgid(pid) != os.getpgid(0)


ORPHANS = """
import asyncio, os, time
from service.media.workers import DecodePool

async def main():
    pool = DecodePool(size=2)
    await pool.start()
    await pool.warm()
    busy = asyncio.ensure_future(pool.submit(time.sleep, 600))
    await asyncio.sleep(0.1)
    print(*(worker.process.pid for worker in pool._workers), flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def test_workers_never_outlive_their_parent_busy_or_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=30, check=False
    )
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_a_pool_that_closes_while_workers_start_leaves_nothing_of_them() -> None:
    pool = DecodePool(size=2)
    await pool.start()
    workers = set(pool._workers)
    await pool.close()
    assert all(worker.process.returncode is not None for worker in workers)
    assert all(worker.connection.fileno() == -1 for worker in workers)
