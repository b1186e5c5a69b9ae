"""A client of live streams: it opens one over a real WebSocket, sends frames, and hears answers until the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect


@contextmanager
def streaming(running: Any, *, headers: dict[str, str] | None = None, **query: object) -> Iterator[ClientConnection]:
    """An open stream, past its first message."""
    url = str(httpx.URL(running.url.replace("http", "ws") + "/classify/stream", params=query))
    with connect(url, additional_headers=headers, close_timeout=5, proxy=None) as stream:
        stream.ready = heard(stream)  # type: ignore[attr-defined]
        assert stream.ready["type"] == "ready"  # type: ignore[attr-defined]
        yield stream


def heard(stream: ClientConnection) -> dict[str, Any]:
    return json.loads(stream.recv(timeout=20))


def send(stream: ClientConnection, image: bytes, time_s: float | None = None, duration_s: float = 0) -> None:
    if time_s is not None:
        stream.send(json.dumps({"time_s": time_s, "duration_s": duration_s}))
    stream.send(image)


def refusal(running: Any, *, headers: dict[str, str] | None = None, **query: object) -> httpx.Response:
    """The HTTP answer in place of a stream."""
    with pytest.raises(InvalidStatus) as caught, streaming(running, headers=headers, **query):
        pass
    answer = caught.value.response
    return httpx.Response(answer.status_code, headers=list(answer.headers.raw_items()), content=bytes(answer.body))


def end_of(stream: ClientConnection, *, heard_before: list[dict[str, Any]] | None = None) -> tuple[int, dict[str, Any]]:
    """The code that it was closed with, and the last message; `heard_before` takes all of them."""
    last: dict[str, Any] = {}
    while True:
        try:
            last = heard(stream)
            (heard_before if heard_before is not None else []).append(last)
        except ConnectionClosed as error:
            return error.rcvd.code if error.rcvd else 1006, last


def shares(message: dict[str, Any]) -> dict[str, float]:
    return {each["label"]: each["probability"] for each in message["predictions"]}
