"""The guard: who is let through, as whom, and how a refusal reads; around a small app, and in front of the real service."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request

from service import keys
from service.api import problems
from service.api.guard import Guard, require_admin
from service.api.observe import Observe
from service.client import in_process
from service.keys import Keys
from service.rates import Rates
from service.settings import Settings
from service.telemetry import Telemetry


def app_with(
    *,
    path: Path | None = None,
    rate: float | None = None,
    rates: Rates | None = None,
    origins: tuple[str, ...] = (),
) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.add_middleware(
        Guard, keys=Keys(path) if path else None, rates=Rates(rate) if rates is None else rates, origins=origins
    )
    app.add_middleware(Observe, observer=Telemetry().request)
    problems.install(app, routes=())

    @app.post("/change", dependencies=[Depends(require_admin)])
    async def change() -> str:
        return "changed"

    @app.api_route("/{rest:path}", methods=["GET", "POST"])
    async def who(request: Request) -> dict[str, Any]:
        return {"client": request.state.client, "admin": request.state.admin}

    return app


def client_of(app: FastAPI, *, peer: str = "127.0.0.1", host: str = "127.0.0.1:8000") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(peer, 5)), base_url=f"http://{host}")


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


async def test_a_key_is_asked_for_and_its_holder_is_known_behind(path: Path) -> None:
    token, admin = keys.add(path, "camera-1"), keys.add(path, "ops", role="admin")
    async with client_of(app_with(path=path)) as client:
        missing = await client.get("/models")
        assert (missing.status_code, missing.json()["code"]) == (401, "missing_key")
        assert missing.headers["www-authenticate"] == "Bearer"
        assert missing.headers["x-request-id"] == missing.json()["request_id"]
        for wrong in ("Bearer nonsense", "Basic dTpw", "Bearer", "Bearer ", token):
            refused = await client.get("/models", headers={"authorization": wrong})
            assert (refused.status_code, refused.json()["code"]) == (401, "invalid_key"), wrong
            assert token not in refused.text
        assert (await client.get("/models", headers=bearer(token))).json() == {"client": "camera-1", "admin": False}
        assert (await client.get("/models", headers=bearer(admin))).json() == {"client": "ops", "admin": True}
        assert (await client.get("/models", headers={"authorization": f"bearer  {token}"})).status_code == 200


async def test_probes_and_pages_stay_open_and_nothing_else_does(path: Path) -> None:
    keys.add(path, "camera-1")
    async with client_of(app_with(path=path, rate=1)) as client:
        for _ in range(3):
            for url in ("/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/static/page.js"):
                assert (await client.get(url)).status_code != 401, url
        for url in ("/models", "/metrics", "/static", "/health", "/docs/", "/v2"):
            assert (await client.get(url)).status_code == 401, url


async def test_a_user_may_not_do_what_admins_may(path: Path) -> None:
    token, admin = keys.add(path, "camera-1"), keys.add(path, "ops", role="admin")
    async with client_of(app_with(path=path)) as client:
        refused = await client.post("/change", headers=bearer(token))
        assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
        assert "'camera-1' is not an admin's" in refused.json()["detail"]
        assert (await client.post("/change", headers=bearer(admin))).json() == "changed"


@pytest.mark.parametrize(
    ("peer", "host", "headers", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:8000", {}, True),
        ("127.0.0.1", "localhost:8000", {}, True),
        ("127.0.0.1", "LOCALHOST", {}, True),
        ("::1", "[::1]:8000", {}, True),
        ("::ffff:127.0.0.1", "127.0.0.1", {}, True),
        ("192.0.2.7", "127.0.0.1:8000", {}, False),
        ("172.17.0.1", "localhost", {}, False),
        ("127.0.0.1", "marey.example", {}, False),
        ("127.0.0.1", "localhost.evil.example", {}, False),
        ("127.0.0.1", "127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", "127.0.0.1", {"forwarded": "for=192.0.2.7"}, False),
        ("127.0.0.1", "127.0.0.1", {"x-forwarded-host": "marey.example"}, False),
        ("127.0.0.1", "127.0.0.1", {"x-forwarded-proto": "https"}, False),
        ("127.0.0.1", "127.0.0.1", {"cf-connecting-ip": "192.0.2.7"}, False),
        ("127.0.0.1", "127.0.0.1", {"true-client-ip": "192.0.2.7"}, False),
        ("127.0.0.1", "127.0.0.1", {"x-client-ip": "192.0.2.7"}, False),
        ("192.0.2.7", "127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", "127.0.0.1:8000", {"origin": "http://127.0.0.1:8000"}, True),
        ("127.0.0.1", "127.0.0.1:8000", {"origin": "http://evil.example"}, False),
        ("127.0.0.1", "127.0.0.1:8000", {"origin": "null"}, False),
        ("127.0.0.1", "127.0.0.1:8000", {"sec-fetch-site": "cross-site"}, False),
        ("127.0.0.1", "127.0.0.1:8000", {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8000"}, True),
    ],
)
async def test_without_keys_only_this_machine_is_an_admin(
    peer: str, host: str, headers: dict[str, str], allowed: bool
) -> None:
    async with client_of(app_with(), peer=peer) as client:
        response = await client.post("/change", headers={"host": host, **headers})
        assert response.status_code == (200 if allowed else 403), response.text
        assert allowed or response.json()["code"] == "not_allowed"


@pytest.mark.parametrize("host", ["[::1", "[]", "::1", "", ":", "[127.0.0.1", "a" * 10_000])
async def test_a_host_that_is_none_is_not_this_machine_and_breaks_nothing(host: str) -> None:
    async with client_of(app_with()) as client:
        assert (await client.post("/change", headers={"host": host})).status_code == 403
        assert (await client.post("/models", headers={"host": host})).json() == {"client": "anonymous", "admin": False}


async def test_pages_of_other_sites_may_look_but_not_touch_unless_they_are_named() -> None:
    foreign = {"origin": "https://app.example", "sec-fetch-site": "cross-site"}
    async with client_of(app_with()) as client:
        assert (await client.get("/models", headers=foreign)).status_code == 200, "the browser hides it from them"
        refused = await client.post("/classify/image", headers=foreign)
        assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
        assert "MAREY_CORS_ORIGINS" in refused.json()["detail"]
    for origins in (("https://app.example",), ("*",)):
        async with client_of(app_with(origins=origins)) as client:
            assert (await client.post("/classify/image", headers=foreign)).status_code == 200


async def test_each_key_has_its_own_bucket_and_may_have_its_own_rate(path: Path) -> None:
    slow, quick = keys.add(path, "slow", rate=0.001), keys.add(path, "quick")
    async with client_of(app_with(path=path, rate=3)) as client:
        assert (await client.get("/models", headers=bearer(slow))).status_code == 200
        refused = await client.get("/models", headers=bearer(slow))
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert int(refused.headers["retry-after"]) > 900
        assert "key slow" in refused.json()["detail"]
        codes = [(await client.get("/models", headers=bearer(quick))).status_code for _ in range(5)]
        assert codes[:4] == [200, 200, 200, 429]


async def test_a_short_wait_is_not_told_as_none() -> None:
    async with client_of(app_with(rates=Rates(40, clock=lambda: 0.0))) as client:
        answers = [await client.get("/models") for _ in range(41)]
    assert [answer.status_code for answer in answers] == [200] * 40 + [429]
    assert "asks too often; retry in less than 0.1 s, and then less often" in answers[-1].json()["detail"]


async def test_without_keys_addresses_are_told_apart_and_an_ipv6_network_is_one() -> None:
    app = app_with(rate=0.001)
    statuses = []
    for peer in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"):
        async with client_of(app, peer=peer) as client:
            statuses.append((await client.get("/models", headers={"x-forwarded-for": peer + "1"})).status_code)
    assert statuses == [200, 200, 429, 200, 429, 200]


async def websocket(app: FastAPI, *, headers: dict[str, str], subprotocols: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the app behind saw of a handshake, or the status and problem of its refusal."""
    seen: dict[str, Any] = {}

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope["state"], subprotocols=scope["subprotocols"], headers=dict(scope["headers"]))

    guard = next(each for each in app.user_middleware if each.cls is Guard)
    stack = Observe(Guard(behind, **guard.kwargs), observer=Telemetry().request)

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.http.response.start":
            seen["status"] = message["status"]
        else:
            assert message["type"] == "websocket.http.response.body"
            seen.update(json.loads(message["body"]))

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode()))
    scope = {
        "type": "websocket",
        "path": "/classify/stream",
        "headers": raw,
        "subprotocols": list(subprotocols),
        "client": ("127.0.0.1", 5),
        "extensions": {"websocket.http.response": {}},
    }
    async with asyncio.timeout(10):
        await stack(scope, None, send)  # type: ignore[arg-type]
    return seen


async def test_a_websocket_is_guarded_before_it_is_accepted(path: Path) -> None:
    token = keys.add(path, "camera-1")
    app = app_with(path=path)
    refused = await websocket(app, headers={"host": "127.0.0.1"})
    assert (refused["status"], refused["code"]) == (401, "missing_key")
    assert (await websocket(app, headers=bearer("x")))["code"] == "invalid_key"
    assert (await websocket(app, headers=bearer(token)))["client"] == "camera-1"


async def test_a_page_offers_its_key_as_a_subprotocol_that_nobody_behind_sees(path: Path) -> None:
    token = keys.add(path, "camera-1")
    seen = await websocket(app_with(path=path), headers={}, subprotocols=("marey.stream", f"marey.key.{token}"))
    assert (seen["client"], seen["subprotocols"]) == ("camera-1", ["marey.stream"])
    assert token not in str(seen)


async def test_a_page_of_another_site_opens_no_websocket_without_keys() -> None:
    app = app_with()
    assert (await websocket(app, headers={"host": "a:1", "origin": "http://b:1"}))["code"] == "not_allowed"
    assert (await websocket(app, headers={"host": "a:1", "origin": "http://a:1"}))["client"] == "anonymous"
    assert (await websocket(app, headers={"host": "a:1"}))["client"] == "anonymous"


@pytest.fixture(scope="module")
def guarded(color_bundle: Any, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    token = keys.add(path, "camera-1")
    with serve(str(color_bundle.path), MAREY_KEYS=str(path)) as running:
        yield running, token


def test_the_service_refuses_a_large_upload_before_it_has_read_it(guarded: tuple[Any, str]) -> None:
    running, _ = guarded
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as peer:
        peer.sendall(
            b"POST /classify/image HTTP/1.1\r\nHost: marey\r\nContent-Length: 50000000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        assert peer.recv(4096).startswith(b"HTTP/1.1 401 Unauthorized")


def test_the_service_classifies_for_who_has_a_key(guarded: tuple[Any, str], make_picture: Any) -> None:
    running, token = guarded
    ask = {"url": "/classify/image", "files": {"file": make_picture("red")}}
    assert running.client.post(**ask).json()["code"] == "missing_key"
    assert running.client.get("/metrics").status_code == 401
    assert running.client.post(**ask, headers=bearer(token)).json()["predictions"][0]["label"] == "red"
    assert running.client.get("/metrics", headers=bearer(token)).status_code == 200
    assert running.client.get("/health/ready").status_code == 200


async def test_who_runs_the_model_in_their_own_process_needs_no_key(
    color_bundle: Any, tmp_path: Path, make_picture: Any
) -> None:
    (tmp_path / "keys").touch()
    settings = Settings(bundles=(color_bundle.path,), keys=tmp_path / "keys", rate_limit=0.001)
    async with asyncio.timeout(60), in_process(settings) as client:
        for _ in range(3):
            answer = await client.post("/classify/image", files={"file": make_picture("red")})
            assert answer.json()["predictions"][0]["label"] == "red"


def test_a_service_does_not_start_with_keys_that_it_cannot_use(color_bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("nonsense\n")
    run = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--port", "0", str(color_bundle.path)],
        env={"MAREY_KEYS": str(tmp_path / "keys"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: line 1 of")
    assert "Traceback" not in run.stderr
