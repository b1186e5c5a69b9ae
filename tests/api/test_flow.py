"""Deadlines, clients that hang up, and refusals at the door: what a request costs that gets no answer."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from service.api.app import create_app
from service.api.state import State
from service.bundle.store import Bundle
from service.settings import Settings

Make = Callable[..., bytes]


def form(content: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + content + b"\r\n--b--\r\n"


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


@dataclass
class Call:
    """One request to an application in this process, whose client can hang up."""

    app: Any
    path: str
    body: bytes
    query: str = ""
    method: str = "POST"
    sent: list[dict[str, Any]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> asyncio.Task[None]:
        self._bodies = [{"type": "http.request", "body": self.body, "more_body": False}]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query.encode(),
            "root_path": "",
            "scheme": "http",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "headers": [
                (b"host", b"127.0.0.1"),
                (b"content-type", b"multipart/form-data; boundary=b"),
                (b"content-length", str(len(self.body)).encode()),
            ],
        }
        return asyncio.create_task(self.app(scope, self._receive, self._send))

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(b"".join(each.get("body", b"") for each in self.sent[1:])))

    async def _receive(self) -> dict[str, Any]:
        if self._bodies:
            return self._bodies.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


@dataclass
class House:
    """A service in this process, and a gate that its device waits at."""

    app: Any
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def state(self) -> State:
        found: State = self.app.state.marey
        return found

    def call(self, body: bytes, *, query: str = "") -> Call:
        return Call(self.app, "/classify/image", form(body), query)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """The device does something else meanwhile."""
        (batcher,) = {replica.batcher for model in self.state.registry.models for replica in model.replicas}
        holding = asyncio.create_task(batcher.call(lambda: self.gate.wait(20)))
        await asyncio.sleep(0)
        try:
            yield
        finally:
            self.gate.set()
            await holding

    def counted(self, sample: str) -> float:
        lines = self.state.telemetry.render().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample + " ")), 0.0)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  # of three threads
                await asyncio.sleep(0.001)


@pytest.fixture
async def house(color_bundle: Bundle) -> AsyncIterator[House]:
    app = create_app(Settings(bundles=(color_bundle.path,), decode_workers=1, jobs=None))
    async with app.router.lifespan_context(app), asyncio.timeout(60):
        await app.state.marey.loaded.wait()
        yield House(app)


async def test_a_request_in_the_queue_is_answered_at_its_deadline_and_costs_no_engine_time(
    house: House, make_picture: Make
) -> None:
    first = house.call(make_picture("red"))
    await first.start()
    assert first.status == 200
    ran = house.counted('marey_batch_rows_count{stage="encoder"}')
    async with house.busy():
        call, began = house.call(make_picture("red"), query="timeout_ms=300"), time.monotonic()
        await call.start()
        spent = time.monotonic() - began
    assert (call.status, call.document["code"]) == (504, "deadline_exceeded")
    assert "timeout_ms = 300" in call.document["detail"]
    assert 0.25 < spent < 2, "and not when the device was free again"
    assert house.state.registry.queued_rows == house.state.admission.requests == 0
    assert house.counted('marey_batch_rows_count{stage="encoder"}') == ran


async def test_a_client_that_hangs_up_in_the_queue_gives_its_place_back_and_costs_no_engine_time(
    house: House, make_picture: Make
) -> None:
    async with house.busy():
        call = house.call(make_picture("red"))
        task = call.start()
        await house.until(lambda: house.state.registry.queued_rows == 1)
        call.gone.set()
        await task
        assert house.state.registry.queued_rows == house.state.admission.requests == house.state.admission.rows == 0
    assert house.counted('marey_requests_total{code="client_gone",route="/classify/image",status="499"}') == 1
    assert house.counted('marey_batch_rows_count{stage="encoder"}') == 0


async def test_whoever_would_wait_too_long_is_refused_and_bulk_may_wait(house: House, make_picture: Make) -> None:
    picture = make_picture("red")
    for _ in range(3):
        await house.call(picture).start()
    batcher = house.state.registry.models[0].replicas[0].batcher
    engine = house.state.registry.models[0].replicas[0].engine
    batcher._device.pace.note((id(engine), "encoder"), units=1, seconds=5)  # as if it were a heavy network
    async with house.busy():
        first = house.call(picture)
        waiting = [first.start()]
        await house.until(lambda: house.state.registry.queued_rows == 1)
        refused = house.call(picture)
        await refused.start()
        assert (refused.status, refused.document["code"]) == (429, "overloaded")
        assert "this request may wait for 100 ms" in refused.document["detail"]
        headers = dict(refused.sent[0]["headers"])
        assert headers[b"content-type"] == b"application/problem+json"
        assert 1 <= int(headers[b"retry-after"]) <= 10
        bulk = house.call(picture, query="priority=bulk")
        waiting.append(bulk.start())
        await house.until(lambda: house.state.registry.queued_rows == 2)
        assert house.counted('marey_queue_entries{priority="bulk"}') == 1
        assert house.counted('marey_queue_wait_seconds{priority="interactive"}') > 0.1
        hopeless = house.call(picture, query="priority=bulk&timeout_ms=50")
        await hopeless.start()
        assert hopeless.status == 429
    await asyncio.gather(*waiting)
    assert (first.status, bulk.status) == (200, 200)
    assert house.counted('marey_refusals_total{reason="wait"}') == 2
    assert house.counted('marey_requests_total{code="overloaded",route="/classify/image",status="429"}') == 2


@pytest.mark.parametrize("path", ["/v2/models/color/infer", "/v2/models/color/versions/1.0.0/infer", "/jobs"])
async def test_the_other_routes_that_take_uploads_are_refused_at_the_door_too(house: House, path: str) -> None:
    house.state.phase = "draining"
    call = Call(house.app, path, b"")
    await call.start()
    assert (call.status, call.document["code"]) == (503, "draining")
    assert ("error" in call.document) is path.startswith("/v2")
    route = path.replace("color", "{name}").replace("1.0.0", "{version}")
    assert house.counted(f'marey_requests_total{{code="draining",route="{route}",status="503"}}') == 1


def test_the_deadline_may_stand_in_a_header_and_the_query_goes_before_it(served: Any, make_video: Make) -> None:
    content = make_video("red", frames=900)

    def ask(**query: object) -> httpx.Response:
        return served.client.post(  # type: ignore[no-any-return]
            "/classify/video", params=query, files={"file": content}, headers={"X-Timeout-Ms": "1"}
        )

    refused = ask()
    assert (refused.status_code, refused.json()["code"]) == (504, "deadline_exceeded"), refused.text
    assert "timeout_ms = 1" in refused.json()["detail"]
    assert ask(timeout_ms=20_000).status_code == 200
    described = served.client.get("/openapi.json").json()["paths"]["/classify/video"]["post"]["parameters"]
    assert "x-timeout-ms" in {each["name"].lower() for each in described}


@pytest.mark.parametrize("value", ["soon", "0", "600001", "1.5"])
def test_a_deadline_that_is_none_is_named(served: Any, make_picture: Make, value: str) -> None:
    response = served.client.post(
        "/classify/image", files={"file": make_picture("red")}, headers={"X-Timeout-Ms": value}
    )
    assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")
    assert f"x-timeout-ms = '{value}'" in response.json()["detail"].lower()


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
