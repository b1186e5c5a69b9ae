"""Redirects are followed, a few of them, and each is checked as the URL was."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from service.errors import UrlFailed, UrlRefused
from service.fetch import MAX_REDIRECTS, Fetcher
from service.spool import Spool
from tests.fetch.web import FILE, Web


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirects_are_followed(web: Web, near: Fetcher, spool: Spool, status: str) -> None:
    web.answer("/a", status=status, Location="/deep/b")
    web.answer("/deep/b", status=status, Location="c?x=1")
    web.answer("/deep/c?x=1", FILE)
    assert (await near.fetch(web.url("/a"), spool=spool, max_bytes=2**20)).source == FILE


async def test_endless_redirects_are_not(web: Web, near: Fetcher, spool: Spool) -> None:
    web.answer("/a", status="302 Found", Location="/a")
    with pytest.raises(UrlFailed, match="more than 3 redirects"):
        await near.fetch(web.url("/a"), spool=spool, max_bytes=2**20)
    assert len(web.asked) == 1 + MAX_REDIRECTS


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "//127.0.0.1:{port}/secret",
        "http://2130706433:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/",
        "http://user:pass@public.example:{port}/secret",
        "http://10.0.0.1/",
    ],
)
async def test_a_redirect_is_checked_as_the_url_was(web: Web, spool: Spool, target: str) -> None:
    web.answer("/a", status="302 Found", Location=target.format(port=web.port))
    web.answer("/secret", b"secret")
    real = Fetcher()

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2"] if host == "public.example" else await real._addresses(host, port)

    # 127.0.0.2 stands for the internet: it leads to the same server, and 127.0.0.1 is forbidden.
    fetcher = Fetcher(allowed=lambda address: address == ip_address("127.0.0.2"), resolve=resolve)
    server = await asyncio.start_server(web.serve, "127.0.0.2", web.port)
    async with server:
        with pytest.raises(UrlRefused):
            await fetcher.fetch(web.url("/a", host="public.example"), spool=spool, max_bytes=2**20)
    assert [request.split()[1] for request in web.asked] == ["/a"]
