"""A file by its URL: it comes as it is, to memory or to the spool, and straight from its server."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.fetch import Fetcher
from service.spool import Spool
from tests.fetch.web import FILE, Web


async def test_a_file_is_fetched_as_it_is(web: Web, near: Fetcher, spool: Spool) -> None:
    web.answer("/a.jpg?x=1", FILE)
    with await near.fetch(web.url("/a.jpg?x=1"), spool=spool, max_bytes=2**20) as upload:
        assert (upload.source, upload.size) == (FILE, len(FILE))
    request = web.asked[0].lower()
    assert f"host: 127.0.0.1:{web.port}\r\n" in request
    assert "accept-encoding: identity\r\n" in request
    assert "cookie" not in request
    assert "authorization" not in request


async def test_a_large_file_goes_to_the_spool_and_leaves_it(web: Web, near: Fetcher, spool: Spool) -> None:
    web.answer("/a.mp4", FILE * 200)
    with await near.fetch(web.url("/a.mp4"), spool=spool, max_bytes=2**22) as upload:
        assert isinstance(upload.source, Path)
        assert upload.source.read_bytes() == FILE * 200
        assert spool.used_bytes == len(FILE) * 200


async def test_a_file_of_unstated_length_is_fetched_in_chunks(web: Web, near: Fetcher, spool: Spool) -> None:
    web.answers["/a"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert (await near.fetch(web.url("/a"), spool=spool, max_bytes=10)).source == b"abcde"
    web.answers["/b"] = b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
    assert (await near.fetch(web.url("/b"), spool=spool, max_bytes=100)).source == b"until the end"


async def test_no_proxy_of_the_environment_is_asked(
    web: Web, near: Fetcher, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    web.answer("/a", FILE)
    assert (await near.fetch(web.url("/a"), spool=spool, max_bytes=2**20)).source == FILE
