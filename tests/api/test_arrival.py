"""How fast a body must arrive: at the seam where the server hands it over, and of a real server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import Request

from service.api.arrival import arriving
from service.errors import ClientGone, TooSlow

pytestmark = pytest.mark.timeout(60)


def request_of(pieces: AsyncIterator[dict[str, object]]) -> Request:
    async def receive() -> Any:
        return await anext(pieces)

    return Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}, receive)


async def silent_after(*pieces: bytes) -> AsyncIterator[dict[str, object]]:
    for piece in pieces:
        yield {"type": "http.request", "body": piece, "more_body": True}
    await asyncio.Event().wait()


async def test_a_body_that_comes_is_handed_on_piece_by_piece() -> None:
    async def whole() -> AsyncIterator[dict[str, object]]:
        yield {"type": "http.request", "body": b"one", "more_body": True}
        yield {"type": "http.request", "body": b"two"}

    found = [piece async for piece in arriving(request_of(whole())) if piece]
    assert found == [b"one", b"two"]


async def test_a_body_that_stops_coming_is_too_slow() -> None:
    with pytest.raises(TooSlow, match=r"10 bytes of the body came in .* s; 0.05 s are allowed"):
        async for _ in arriving(request_of(silent_after(bytes(10))), patience_s=0.05):
            pass


async def test_what_came_buys_time_for_the_rest() -> None:
    """A thousand bytes a second: without what they buy, nothing would be left after the first piece."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TooSlow):
        async for _ in arriving(request_of(silent_after(bytes(300))), patience_s=0.05):
            pass
    assert loop.time() - began >= 0.3


async def test_a_client_that_hangs_up_is_gone() -> None:
    async def broken() -> AsyncIterator[dict[str, object]]:
        yield {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        async for _ in arriving(request_of(broken())):
            pass


def test_silent_uploads_are_told_so_and_give_their_places_back(color_bundle: Any, serve: Callable[..., Any]) -> None:
    asked = (
        b"POST /classify/image HTTP/1.1\r\nHost: marey\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    with serve(str(color_bundle.path), MAREY_MAX_REQUESTS="3") as running, ExitStack() as opened:
        host, port = running.url.removeprefix("http://").split(":")
        silent = [opened.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(3)]
        for connection in silent:
            connection.sendall(asked)
        while "marey_requests_active 3.0" not in running.client.get("/metrics").text:
            pass
        for connection in silent:
            head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")  # to its end: it is closed
            assert head.startswith(b"HTTP/1.1 408 ")
            assert json.loads(body)["code"] == "too_slow"
        while "marey_requests_active 0.0" not in running.client.get("/metrics").text:
            pass
