"""Servers that answer with no file, with too much, with nonsense or not at all."""

from __future__ import annotations

import asyncio
import socket

import pytest

from service.errors import SpoolFull, TooLarge, UrlFailed
from service.fetch import Fetcher
from service.spool import Spool
from tests.fetch.conftest import loopback
from tests.fetch.web import Web


@pytest.mark.parametrize(
    ("status", "saying"),
    [("404 Not Found", "answered 404"), ("206 Partial Content", "answered 206"), ("304 Not Modified", "answered 304")],
)
async def test_an_answer_that_is_no_file_is_told(
    web: Web, near: Fetcher, spool: Spool, status: str, saying: str
) -> None:
    web.answer("/a", b"x", status=status)
    with pytest.raises(UrlFailed, match=saying):
        await near.fetch(web.url("/a"), spool=spool, max_bytes=10)


async def test_an_empty_file_and_a_packed_one_are_refused(web: Web, near: Fetcher, spool: Spool) -> None:
    web.answer("/empty")
    with pytest.raises(UrlFailed, match="0 bytes"):
        await near.fetch(web.url("/empty"), spool=spool, max_bytes=10)
    web.answer("/packed", b"\x1f\x8b" + bytes(10), Content_Encoding="gzip")
    with pytest.raises(UrlFailed, match="packs the file as 'gzip'"):
        await near.fetch(web.url("/packed"), spool=spool, max_bytes=100)


async def emptied(spool: Spool) -> None:
    """Until nothing is left of what was given up."""
    while spool.used_bytes:
        await asyncio.to_thread(spool.submit(lambda: None).result)


async def test_a_file_larger_than_allowed_is_not_read_to_its_end(web: Web, near: Fetcher, spool: Spool) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(2**16))
            await writer.drain()
            sent += 2**16

    web.answers["/endless"] = endless
    web.answer("/stated", bytes(200))
    with pytest.raises(TooLarge, match="100 bytes allowed"):
        await near.fetch(web.url("/stated"), spool=spool, max_bytes=100)
    with pytest.raises(TooLarge, match="1000000 bytes allowed"):
        await near.fetch(web.url("/endless"), spool=spool, max_bytes=10**6)
    await emptied(spool)
    with pytest.raises(TooLarge, match="MAREY_MAX_SPOOL_BYTES"):  # more than the spool could hold of it alone
        await near.fetch(web.url("/endless"), spool=spool, max_bytes=10**9)
    await emptied(spool)  # files are removed in a thread
    with spool.draft(max_bytes=10**9) as other:
        await other.write(bytes(2 * 2**20))
        with pytest.raises(SpoolFull):
            await near.fetch(web.url("/endless"), spool=spool, max_bytes=10**9)
    assert sent < 30 * 2**20
    await emptied(spool)


async def test_a_server_that_says_nothing_or_nonsense_or_hangs_up_is_told(web: Web, spool: Spool) -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    fetcher = Fetcher(allowed=loopback, patience_s=0.2)
    web.answers.update({"/silent": silent, "/nonsense": b"SSH-2.0-OpenSSH\r\n\r\n", "/gone": b""})
    web.answers["/short"] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
    for path, saying in (
        ("/silent", "in time"),
        ("/nonsense", "cannot be"),
        ("/gone", "cannot be"),
        ("/short", "cannot be"),
    ):
        with pytest.raises(UrlFailed, match=saying):
            await fetcher.fetch(web.url(path), spool=spool, max_bytes=100)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(UrlFailed, match="cannot be"):
            await fetcher.fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/", spool=spool, max_bytes=100)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
