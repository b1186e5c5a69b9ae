"""Between Ray's proxy and our application."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.exceptions import TaskCancelledError

from service.scale.ingress import Behind

Message = dict[str, Any]


async def passed(
    scope: Message, *, answer: Message | None = None, receives: list[Message | Exception] | None = None
) -> tuple[Message, list[Message], list[Message]]:
    """The scope that the application sees, what is sent, and what it has received."""
    seen: Message = {}
    sent: list[Message] = []
    received: list[Message] = []
    waiting = list(receives or [])

    async def app(scope: Message, receive: Any, send: Any) -> None:
        seen.update(scope)
        received.extend([await receive() for _ in receives or []])
        if answer is not None:
            await send(answer)

    async def receive() -> Message:
        each = waiting.pop(0)
        if isinstance(each, Exception):
            raise each
        return each

    async def send(message: Message) -> None:
        sent.append(message)

    await Behind(app)(scope, receive, send)
    return seen, sent, received


def http(**changes: Any) -> Message:
    return {"type": "http", "path": "/jobs/1", "root_path": "/jobs", "headers": [(b"x-request-id", b"abc")], **changes}


async def test_paths_begin_at_the_root_whatever_share_of_them_comes_here() -> None:
    seen, _, _ = await passed(http())
    assert (seen["path"], seen["root_path"]) == ("/jobs/1", "")


async def test_the_id_that_the_proxy_adds_is_not_sent_twice() -> None:
    headers = [(b"x-request-id", b"abc"), (b"content-type", b"a/b")]
    _, sent, _ = await passed(http(), answer={"type": "http.response.start", "status": 200, "headers": headers})
    assert sent[0]["headers"] == [(b"content-type", b"a/b")]
    # One that we have made, because the client's could not be used, is all that the log has.
    headers = [(b"x-request-id", b"ours")]
    _, sent, _ = await passed(http(), answer={"type": "http.response.start", "status": 200, "headers": headers})
    assert sent[0]["headers"] == headers


async def test_a_request_that_ray_cancels_is_a_client_that_has_gone() -> None:
    received: list[Message] = []

    async def app(_scope: Message, receive: Any, _send: Any) -> None:
        received.append(await receive())
        received.append(await receive())  # as it is from then on

    async def nothing() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    request = asyncio.create_task(Behind(app)(http(), nothing, nothing))
    await asyncio.sleep(0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert received == [{"type": "http.disconnect"}] * 2


async def test_what_the_application_raises_is_raised() -> None:
    async def app(_scope: Message, _receive: Any, _send: Any) -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        await Behind(app)(http(), None, None)  # type: ignore[arg-type]


async def test_a_request_that_ray_ends_is_a_client_that_has_gone() -> None:
    body = {"type": "http.request", "body": b"", "more_body": True}
    _, _, received = await passed(http(), receives=[body, TaskCancelledError()])
    assert received == [body, {"type": "http.disconnect"}]
    _, _, received = await passed(http(type="websocket"), receives=[TaskCancelledError()])
    assert received == [{"type": "websocket.disconnect"}]
