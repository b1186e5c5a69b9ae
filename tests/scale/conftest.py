"""A service of several replicas on this machine, and what can be done to them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import psutil
import pytest

from service.bundle.store import Bundle
from tests.api.conftest import make_picture, make_video
from tests.conftest import Served, serving

__all__ = ["make_picture", "make_video"]  # fixtures of the API's tests

ENGINE = "ray::ServeReplica:marey-engines:color-1.0.0"
INGRESS = "ray::ServeReplica:marey:requests"


@pytest.fixture(scope="session")
def replicated(color_bundle: Bundle) -> Iterator[Served]:
    """Two replicas that take requests, two that run networks, and one for jobs."""
    with serving(str(color_bundle.path), "--ray", "--ingress", "2", "--engines", "2") as running:
        yield running


def replicas(served: Served, title: str) -> list[psutil.Process]:
    """The processes of one deployment, by what Ray calls them."""
    everybody = psutil.Process(served.process.pid).children(recursive=True)
    return [each for each in everybody if each.is_running() and title_of(each).startswith(title)]


def title_of(process: psutil.Process) -> str:
    """What it calls itself; nothing once it is gone."""
    try:
        return "".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


@dataclass
class Asked:
    """One request: when it was sent, in monotonic seconds, and what came of it."""

    sent: float
    ended: float
    status: int


@dataclass
class Load:
    """`clients` that ask again as soon as they are answered."""

    served: Served
    content: bytes
    asked: list[Asked] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, *, clients: int) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.served.url, timeout=60, limits=limits) as client:
            going = True

            async def ask() -> None:
                while going:
                    sent = time.monotonic()
                    response = await client.post("/classify/video", files={"file": self.content})
                    self.asked.append(Asked(sent, time.monotonic(), response.status_code))

            tasks = [asyncio.create_task(ask()) for _ in range(clients)]
            try:
                yield
            finally:
                going = False
                await asyncio.gather(*tasks)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110  # of other processes
                await asyncio.sleep(0.05)

    @property
    def answered(self) -> int:
        return sum(each.status == 200 for each in self.asked)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """`await until(condition)`: of this process."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    return wait
