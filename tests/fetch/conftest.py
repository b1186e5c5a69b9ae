"""Files by URL: real servers on this machine, which a test allows by an argument; nothing else of the fetcher is changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from service.fetch import Address, Fetcher
from service.spool import Spool
from tests.fetch.web import Web, serving


def loopback(address: Address) -> bool:
    return address.is_loopback


def to(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A resolver that gives one more of `addresses` each time it is asked, and the last one ever after."""
    left = list(addresses)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return [left.pop(0) if len(left) > 1 else left[0]]

    return resolve


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path, max_bytes=4 * 2**20)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as running:
        yield running


@pytest.fixture
def near() -> Iterator[Fetcher]:
    """A fetcher that may ask this machine, and nothing else."""
    fetcher = Fetcher(allowed=loopback)
    yield fetcher
    fetcher.close()
