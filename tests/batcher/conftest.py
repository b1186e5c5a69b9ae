"""A batcher, the engines that it asks, and requests to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from service.batcher import Batcher
from service.bundle.manifest import Stage
from service.waiting import Rows
from tests.batcher.engines import FakeEngine, FakeGpu


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


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


async def running(batcher: Batcher, engine: FakeEngine, *, stage: Stage = "encoder") -> asyncio.Task[Rows]:
    """A request of one row that the device is busy with until the gate is opened."""
    engine.gate.clear()
    task = asyncio.create_task(batcher.run(engine, stage, rows(1), deadline=soon()))
    await asyncio.to_thread(engine.entered.wait, 10)
    return task
