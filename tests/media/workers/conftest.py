"""A pool of real processes, and how to see that it works."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from service.bundle.manifest import Input
from service.media.workers import DecodePool

Encode = Callable[..., bytes]


@pytest.fixture
async def pool() -> AsyncIterator[DecodePool]:
    async with DecodePool(size=1, timeout_s=20) as pool:
        await pool.warm()
        yield pool


@pytest.fixture
def picture(encode: Encode, patches: np.ndarray) -> bytes:
    return encode(patches, "JPEG")


async def works(pool: DecodePool, picture: bytes, spec: Input) -> bool:
    decoded = await pool.image(picture, spec=spec)
    return decoded.clip.frames.shape == (1, spec.height, spec.width, 3)


async def until(condition: Callable[[], bool]) -> None:
    """Processes send no events to those who only watch them."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
