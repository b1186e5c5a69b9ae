"""Names: every address of one is checked, and none is asked for that was not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from service.errors import UrlFailed, UrlRefused
from service.fetch import Fetcher
from service.spool import Spool
from tests.fetch.conftest import loopback, to
from tests.fetch.web import FILE, Web


@pytest.mark.parametrize("host", ["localhost.", "ip6-localhost", "a.localhost", "127.0.0.1.", "1.0.0.127.in-addr.arpa"])
async def test_names_that_may_lead_here_lead_nowhere(web: Web, spool: Spool, host: str) -> None:
    web.answer("/a", FILE)
    fetcher = Fetcher()
    with pytest.raises((UrlRefused, UrlFailed)):  # whether this machine knows the name or not
        await fetcher.fetch(web.url("/a", host=host), spool=spool, max_bytes=10)
    fetcher.close()
    assert web.asked == []


async def test_a_name_that_changes_its_address_is_asked_for_once(web: Web, spool: Spool) -> None:
    web.answer("/a", FILE)
    rebinding = Fetcher(
        allowed=lambda address: address == ip_address("127.0.0.2"), resolve=to("127.0.0.2", "127.0.0.1")
    )
    with pytest.raises(UrlFailed):  # nobody listens at the address that was checked, and no other is tried
        await rebinding.fetch(web.url("/a", host="rebind.example"), spool=spool, max_bytes=2**20)
    with pytest.raises(UrlRefused, match="not at a public address"):
        await rebinding.fetch(web.url("/a", host="rebind.example"), spool=spool, max_bytes=2**20)
    assert web.asked == []


async def test_one_private_address_among_public_ones_is_enough_to_refuse(web: Web, spool: Spool) -> None:
    web.answer("/a", FILE)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1", "10.0.0.1"]

    with pytest.raises(UrlRefused):
        await Fetcher(allowed=loopback, resolve=resolve).fetch(
            web.url("/a", host="both.example"), spool=spool, max_bytes=2**20
        )
    assert web.asked == []


async def test_the_next_address_of_a_name_is_tried_where_one_does_not_answer(web: Web, spool: Spool) -> None:
    web.answer("/a", FILE)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.9", "127.0.0.1"]

    fetcher = Fetcher(allowed=loopback, resolve=resolve)
    assert (await fetcher.fetch(web.url("/a", host="two.example"), spool=spool, max_bytes=2**20)).source == FILE
    assert f"host: two.example:{web.port}\r\n" in web.asked[0].lower()


async def test_a_refusal_does_not_say_where_a_name_leads(spool: Spool) -> None:
    with pytest.raises(UrlRefused) as caught:
        await Fetcher(resolve=to("10.1.2.3")).fetch("http://intranet.example/s3cret?k=v", spool=spool, max_bytes=10)
    assert "10.1.2.3" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_name_that_nobody_knows_is_told(spool: Spool) -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def slow(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(UrlFailed, match=r"'nobody\.invalid' is not known"):
        await Fetcher(resolve=unknown).fetch("http://nobody.invalid/", spool=spool, max_bytes=10)
    with pytest.raises(UrlFailed, match="in time"):
        await Fetcher(resolve=slow, patience_s=0.1).fetch("http://nobody.invalid/", spool=spool, max_bytes=10)
