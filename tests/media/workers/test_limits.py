"""Processes that really hang, compute without end or eat memory are stopped at a limit."""

import signal
import time

import pytest

from service.bundle.manifest import Input
from service.errors import DecodeLimit, TooManyPixels
from service.media.limits import Limits
from service.media.workers import DecodePool
from tests.media.workers.conftest import works

pytestmark = pytest.mark.timeout(60)


async def test_limits_reach_the_workers(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=1, limits=Limits(max_pixels=100)) as pool:
        with pytest.raises(TooManyPixels, match="at most 100"):
            await pool.image(picture, spec=spec)


async def test_a_hang_costs_one_request_and_its_worker(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=1, timeout_s=0.5) as pool:
        await pool.warm()
        with pytest.raises(DecodeLimit, match=r"longer than 0.5 s"):
            await pool.submit(time.sleep, 60)
        assert await works(pool, picture, spec)


async def test_processor_time_is_limited_per_call_even_where_the_clock_is_not(
    pool: DecodePool, picture: bytes, spec: Input
) -> None:
    with pytest.raises(DecodeLimit, match="processor time"):
        await pool.submit(signal.raise_signal, signal.SIGXCPU)
    limits = "__import__('resource').getrlimit(__import__('resource').RLIMIT_CPU)[0]"
    assert 20 < await pool.submit(eval, limits) < 30
    assert await works(pool, picture, spec)


async def test_memory_is_limited(pool: DecodePool, picture: bytes, spec: Input) -> None:
    with pytest.raises(DecodeLimit, match="memory"):
        await pool.submit(bytearray, 5 << 30)
    assert await works(pool, picture, spec)
