"""The head of a request over raw sockets: how large it may be, and how long it may take."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from service.http import HEAD_S, MAX_HEAD_BYTES, MAX_HEADERS

pytestmark = pytest.mark.timeout(60)
ASK = b"GET /health/live HTTP/1.1\r\nHost: marey\r\n"


@contextmanager
def connected(served: Any) -> Iterator[socket.socket]:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of all that comes until the server closes."""
    head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    return head, body


def ended(connection: socket.socket, piece: bytes) -> int:
    """How many bytes of endless `piece` the server took before it ended the connection."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 2**26:
            connection.sendall(piece)
            sent += len(piece)
    return sent


def test_a_head_within_the_limits_is_answered(served: Any) -> None:
    several = b"".join(b"X-%d: b\r\n" % number for number in range(MAX_HEADERS - 3))
    large = b"X-A: " + b"a" * (MAX_HEAD_BYTES - 4096) + b"\r\n"
    with connected(served) as connection:
        connection.sendall(ASK + several + large + b"Connection: close\r\n\r\n")
        assert answer(connection)[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("head", "saying"),
    [
        (ASK + b"X-A: b\r\n" * MAX_HEADERS + b"\r\n", "more than the 100 headers allowed"),
        (ASK + b"X-A: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", "more than the 65536 bytes allowed"),
        (b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: marey\r\n\r\n", "more than the 65536 bytes allowed"),
        (
            b"POST /classify/image HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"\r\n2\r\n--\r\n0\r\n" + b"X-A: b\r\n" * MAX_HEADERS + b"\r\n",
            "more than the 100 headers allowed",
        ),
    ],
    ids=["headers", "value", "target", "trailers"],
)
def test_a_head_beyond_the_limits_is_refused_with_a_problem(served: Any, head: bytes, saying: str) -> None:
    with connected(served) as connection:
        connection.sendall(head)
        first, body = answer(connection)
    assert first.startswith(b"HTTP/1.1 431 ")
    assert b"content-type: application/problem+json" in first
    found = json.loads(body)
    assert (found["status"], found["code"], found["title"]) == (431, "headers_too_large", "Headers too large")
    assert saying in found["detail"]


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (ASK, b"X-A: b\r\n"),
        (ASK + b"X-A: ", b"a" * 1024),
        (b"GET /", b"a" * 1024),
        (b"POST /health/live HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: ", b"a" * 1024),
    ],
    ids=["headers", "value", "target", "trailer"],
)
def test_an_endless_head_is_not_taken_into_memory(served: Any, head: bytes, piece: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(head)
        # What the kernel holds for both sides comes on top of what the server took.
        assert ended(connection, piece) < 2**25
    assert served.client.get("/health/live").status_code == 200


def test_a_head_that_is_never_complete_ends_the_connection(color_bundle: Any, serve: Callable[..., Any]) -> None:
    """All at once: a silent connection, half a head, one that comes line by line and says nothing, empty lines behind an answer."""
    with serve(str(color_bundle.path)) as running, ExitStack() as opened:
        silent, half, dripping, empty = (opened.enter_context(connected(running)) for _ in range(4))
        began = time.monotonic()
        half.sendall(ASK)
        empty.sendall(ASK + b"\r\n\r\n")
        dripping.settimeout(0.2)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < began + HEAD_S + 5:
                dripping.sendall(b"\r\n")
                empty.sendall(b"\r\n")
                with contextlib.suppress(TimeoutError):
                    if not dripping.recv(1):
                        break
        assert HEAD_S - 1 < time.monotonic() - began < HEAD_S + 4
        assert silent.recv(1) == half.recv(1) == b""
        with contextlib.suppress(ConnectionError):
            assert answer(empty)[0].startswith(b"HTTP/1.1 200 ")
        assert time.monotonic() - began < HEAD_S + 5


def test_a_connection_that_is_kept_alive_takes_one_request_after_the_other(served: Any) -> None:
    with connected(served) as connection:
        for _ in range(3):
            connection.sendall(ASK + b"\r\n")
            found = b""
            while not found.endswith(b'{"status":"live"}'):
                piece = connection.recv(4096)
                assert piece, found
                found += piece
        connection.sendall((ASK + b"\r\n") * 2 + ASK + b"Connection: close\r\n\r\n")
        assert connection.makefile("rb").read().count(b"HTTP/1.1 200 ") == 3
