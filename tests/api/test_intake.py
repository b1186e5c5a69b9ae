"""What a request brings by URL instead of a form, in front of the real service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx

from service.api.app import create_app
from service.fetch import Fetcher
from service.settings import Settings


def test_the_service_fetches_only_where_it_is_told_to(color_bundle, serve) -> None:
    with serve(str(color_bundle.path)) as running:
        for path in ("/classify/image", "/classify/video", "/jobs"):
            refused = running.client.post(path, json={"url": "http://example.org/a.jpg"})
            assert (refused.status_code, refused.json()["code"]) == (422, "url_refused"), refused.text
            assert "MAREY_ALLOW_URLS" in refused.json()["detail"]
    with serve(str(color_bundle.path), MAREY_ALLOW_URLS="true") as running:
        refused = running.client.post("/classify/image", json={"url": f"{running.url}/models"})
        assert (refused.status_code, refused.json()["code"]) == (422, "url_refused"), refused.text
        assert "not at a public address" in refused.json()["detail"]
        for body in (b"", b"{", b"[]", b'"x"', b"{}", b'{"url": 1}', b'{"url": "x", "file": "y"}', b"[" * 15_000):
            malformed = running.client.post(
                "/classify/image", content=body, headers={"content-type": "application/json; charset=utf-8"}
            )
            assert (malformed.status_code, malformed.json()["code"]) == (400, "malformed"), malformed.text
        large = running.client.post("/classify/image", json={"url": "x" * 20_000})
        assert (large.status_code, large.json()["code"]) == (413, "file_too_large")


@asynccontextmanager
async def web_of(content: bytes) -> AsyncIterator[str]:
    """The URL of a server on this machine that gives `content`, whatever it is asked for."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/file"


async def test_what_is_fetched_is_classified_as_if_it_had_been_sent(
    color_bundle, make_picture: Callable[..., bytes], make_video: Callable[..., bytes]
) -> None:
    # An argument, and not a patch: the default asks public addresses only, and this machine has none.
    near = Fetcher(allowed=lambda address: address.is_loopback)
    app = create_app(Settings(bundles=(color_bundle.path,), allow_urls=True, max_upload_bytes=10_000), fetcher=near)
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        app.router.lifespan_context(app),
        asyncio.timeout(60),
    ):
        await app.state.marey.loaded.wait()
        for path, content in (("/classify/image", make_picture("red")), ("/classify/video", make_video("blue"))):
            async with web_of(content) as url:
                answer = await client.post(path, json={"url": url})
            sent = await client.post(path, files={"file": content})
            assert answer.status_code == 200, answer.text
            assert answer.json()["predictions"] == sent.json()["predictions"]
        async with web_of(bytes(20_000)) as url:
            large = await client.post("/classify/image", json={"url": url})
            assert (large.status_code, large.json()["code"]) == (413, "file_too_large"), large.text
        async with web_of(b"no image") as url:
            assert (await client.post("/classify/image", json={"url": url})).json()["code"] == "unsupported_media"
        late = await client.post("/classify/image", json={"url": url}, params={"timeout_ms": 5000})
        assert (late.status_code, late.json()["code"]) == (422, "url_failed"), late.text


async def test_a_client_that_hangs_up_ends_the_fetching(color_bundle) -> None:
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()  # until the fetcher hangs up
        hung_up.set()
        writer.close()

    near = Fetcher(allowed=lambda address: address.is_loopback)
    app = create_app(Settings(bundles=(color_bundle.path,), allow_urls=True), fetcher=near)
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    body = json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"}).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, object]:
        if (message := next(messages, None)) is not None:
            return message
        await asked.wait()
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        pass

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/classify/image",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
    }
    async with server, app.router.lifespan_context(app), asyncio.timeout(30):
        await app.state.marey.loaded.wait()
        await app(scope, receive, send)  # type: ignore[arg-type]
        await hung_up.wait()
        assert app.state.marey.admission.requests == 0
    assert b'code="client_gone",route="/classify/image",status="499"' in app.state.marey.telemetry.render()
