"""A process that really crashes costs one request, and one that dies while idle costs none."""

import asyncio
import os
import signal
from collections.abc import Callable

import psutil
import pytest

from service.bundle.manifest import Input
from service.errors import DecodeFailed
from service.media.workers import DecodePool
from tests.media.workers.conftest import until, works

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("crash", "argument", "named"),
    [(signal.raise_signal, signal.SIGSEGV, "SIGSEGV"), (os._exit, 3, "exit status 3"), (os.abort, None, "SIGABRT")],
)
async def test_a_crash_costs_one_request(
    crash: Callable[..., None], argument: int | None, named: str, pool: DecodePool, picture: bytes, spec: Input
) -> None:
    arguments = () if argument is None else (argument,)
    with pytest.raises(DecodeFailed, match=named) as caught:
        await pool.submit(crash, *arguments)
    assert type(caught.value) is DecodeFailed
    assert await works(pool, picture, spec)
    assert pool.alive


async def test_a_crash_does_not_touch_the_requests_beside_it_and_behind_it(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=2) as pool:
        await pool.warm()
        results = await asyncio.gather(
            *(works(pool, picture, spec) for _ in range(10)),
            pool.submit(os._exit, 1),
            *(works(pool, picture, spec) for _ in range(20)),
            return_exceptions=True,
        )
    assert [type(result) for result in results].count(DecodeFailed) == 1
    assert results.count(True) == 30


async def test_a_worker_killed_while_idle_is_replaced_unseen(pool: DecodePool, picture: bytes, spec: Input) -> None:
    pid = await pool.submit(os.getpid)
    psutil.Process(pid).kill()
    await until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert await works(pool, picture, spec)
