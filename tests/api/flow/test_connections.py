"""Connections whose clients hang up, still send, send ahead, or keep a decoder busy."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from service.bundle.store import Bundle
from tests.api.house import form

Make = Callable[..., bytes]


def posted(path: str, body: bytes, *, length: int | None = None, **headers: str) -> bytes:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST {path} HTTP/1.1\r\nHost: marey\r\nContent-Type: multipart/form-data; boundary=b\r\n{more}"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    ).encode() + body


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answer(connection: socket.socket) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and JSON of the next answer on a connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        assert more, f"the connection was closed after {received!r}"
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(lines[0].split()[1]), headers, json.loads(body)


def metric(served: Any, line: str) -> float:
    """The value of a sample of /metrics; 0 where it has not been counted yet."""
    text = served.client.get("/metrics").text
    return next((float(each.rpartition(" ")[2]) for each in text.splitlines() if each.startswith(line + " ")), 0.0)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "it did not come to that"


@pytest.fixture(scope="module")
def narrow(color_bundle: Bundle, serve: Callable[..., Any]) -> Iterator[Any]:
    """One decoder, two requests at once."""
    with serve(str(color_bundle.path), MAREY_DECODE_WORKERS="1", MAREY_MAX_REQUESTS="2") as running:
        yield running


def decoders(served: Any) -> list[psutil.Process]:
    return psutil.Process(served.process.pid).children()


GONE = 'marey_requests_total{code="client_gone",route="/classify/image",status="499"}'


def test_clients_that_hang_up_while_decoded_or_waiting_for_it_give_their_places_back(
    narrow: Any, make_picture: Make
) -> None:
    asked = posted("/classify/image", form(make_picture("red")))
    (decoder,) = decoders(narrow)
    decoder.suspend()
    with connected(narrow.url) as decoded:
        decoded.sendall(asked)
        wait_for(lambda: metric(narrow, "marey_requests_active") == 1)
        with connected(narrow.url) as waiting:
            waiting.sendall(asked)
            wait_for(lambda: metric(narrow, "marey_requests_active") == 2)
        wait_for(lambda: metric(narrow, GONE) == 1)
        assert metric(narrow, "marey_requests_active") == 1, "the other one goes on"
    wait_for(lambda: metric(narrow, GONE) == 2)
    assert metric(narrow, "marey_requests_active") == 0
    assert narrow.post("/classify/image", make_picture("blue")).json()["predictions"][0]["label"] == "blue"


def test_a_refusal_at_the_door_leaves_the_connection_open_under_a_client_that_still_sends(
    narrow: Any, make_picture: Make
) -> None:
    begun = posted("/classify/image", b"--b\r\n", length=1000)
    with connected(narrow.url) as first, connected(narrow.url) as second, connected(narrow.url) as late:
        first.sendall(begun)
        second.sendall(begun)
        wait_for(lambda: metric(narrow, "marey_requests_active") == 2)
        large = form(bytes(8 * 2**20))
        late.sendall(posted("/classify/image", large[:1000], length=len(large)))
        status, headers, document = answer(late)
        assert (status, document["code"]) == (429, "overloaded")
        assert int(headers["retry-after"]) >= 1
        assert "connection" not in headers
        late.sendall(large[1000:])
        first.close()
        wait_for(lambda: metric(narrow, "marey_requests_active") == 1)
        late.sendall(posted("/classify/image", form(make_picture("green"))))
        status, _, document = answer(late)
        assert (status, document["predictions"][0]["label"]) == (200, "green")


def test_requests_sent_one_behind_the_other_are_answered_in_order(served: Any, make_picture: Make) -> None:
    gone = metric(served, GONE)
    with connected(served.url) as connection:
        connection.sendall(b"".join(posted("/classify/image", form(make_picture(color))) for color in ("red", "blue")))
        received = b""
        while received.count(b'"batch_size"') < 2:
            more = connection.recv(65536)
            assert more
            received += more
    labels = [part.partition(b'"label":"')[2].partition(b'"')[0] for part in received.split(b'"predictions"')[1:]]
    assert labels == [b"red", b"blue"]
    assert metric(served, GONE) == gone, "a second request is no hang-up"


def test_a_long_video_does_not_keep_images_out_while_another_decoder_is_free(
    color_bundle: Bundle, serve: Callable[..., Any], make_picture: Make, make_video: Make
) -> None:
    asked = posted("/classify/video", form(make_video("red")))
    with serve(str(color_bundle.path), MAREY_DECODE_WORKERS="2") as running:
        held, free = decoders(running)
        held.suspend()
        free.suspend()
        with connected(running.url) as one, connected(running.url) as other:
            one.sendall(asked)
            other.sendall(asked)
            wait_for(lambda: metric(running, "marey_requests_active") == 2)
            free.resume()
            wait_for(lambda: metric(running, "marey_requests_active") == 1)
            answers = [running.post("/classify/image", make_picture("red")).status_code for _ in range(10)]
            assert metric(running, "marey_requests_active") == 1, "the video still has its decoder"
            held.resume()
            assert [answer(each)[0] for each in (one, other)] == [200, 200]
    assert answers == [200] * 10
