"""Security headers on every answer, CORS where it is asked for, and documentation that needs nobody else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from service.api import problems
from service.api.headers import SecurityHeaders
from service.api.observe import Observe
from service.telemetry import Telemetry

SITE = "https://app.example"


def strict(response: httpx.Response) -> None:
    """What every answer says, whatever it is."""
    headers = response.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] in ("same-origin", "cross-origin")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] in ("no-store", "no-cache")
    assert "x-request-id" in headers


def test_every_answer_has_them_and_no_browser_of_another_site_may_read_it(served: Any, make_picture: Any) -> None:
    answers = [
        served.post("/classify/image", make_picture("red")),
        served.post("/classify/image", b"no image"),
        served.client.get("/nowhere"),
        served.client.delete("/models"),
        served.client.get("/metrics"),
        served.client.get("/health/live"),
        served.client.get("/openapi.json"),
        served.client.get("/docs"),
        served.client.options("/classify/image", headers={"origin": SITE, "access-control-request-method": "POST"}),
        served.client.get("/models", headers={"origin": SITE}),
    ]
    assert len({response.status_code for response in answers}) >= 4
    for response in answers:
        strict(response)
        assert served.on_ray or "server" not in response.headers  # Ray's proxy says who it is
        assert not [name for name in response.headers if name.startswith("access-control-")]


def test_the_documentation_needs_no_script_and_nobody_else_and_names_every_path(served: Any) -> None:
    page = served.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    markup = re.sub(r"<style>.*?</style>", "", page.text, flags=re.DOTALL)
    for needle in ("<script", "<link", "src=", 'href="http', "javascript:"):
        assert needle not in markup, needle
    style = re.search(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert style is not None
    hashed = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{hashed}'" in page.headers["content-security-policy"]
    for path in served.client.get("/openapi.json").json()["paths"]:
        assert path in page.text
    for code in ("rate_limited", "url_refused", "missing_key", "deadline_exceeded"):
        assert code in page.text
    assert served.client.get("/redoc").status_code == 404


@pytest.fixture(scope="module")
def shared(color_bundle: Any, serve: Any) -> Iterator[Any]:
    with serve(str(color_bundle.path), MAREY_CORS_ORIGINS=f"{SITE},http://localhost:3000") as running:
        yield running


def test_pages_of_a_named_site_may_ask_and_read_and_others_may_not(shared: Any, make_picture: Any) -> None:
    wishes = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = shared.client.options("/classify/image", headers={"origin": SITE, **wishes})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == SITE
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in allowed.headers
    refused = shared.client.options("/classify/image", headers={"origin": "https://evil.example", **wishes})
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    ask = {"url": "/classify/image", "files": {"file": make_picture("red")}}
    answer = shared.client.post(**ask, headers={"origin": SITE, "sec-fetch-site": "cross-site"})
    assert answer.json()["predictions"][0]["label"] == "red"
    assert answer.headers["access-control-allow-origin"] == SITE
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "Server-Timing" in answer.headers["access-control-expose-headers"]
    assert shared.client.post(**ask, headers={"origin": "https://evil.example"}).json()["code"] == "not_allowed"
    wrong = shared.client.post("/classify/image", files={"file": b"none"}, headers={"origin": SITE})
    assert (wrong.status_code, wrong.headers["access-control-allow-origin"]) == (415, SITE), "problems can be read too"


async def test_what_nobody_foresaw_is_a_problem_with_an_id_and_all_headers(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI(openapi_url=None)
    app.add_middleware(problems.Unexpected)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Observe, observer=(telemetry := Telemetry()).request, paths=["/fails"])
    problems.install(app, routes=())

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("nobody foresaw this")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        response = await client.get("/fails", headers={"x-request-id": "mine"})
    assert (response.status_code, response.json()["code"], response.json()["request_id"]) == (500, "internal", "mine")
    assert "nobody foresaw this" not in response.text
    strict(response)
    assert "nobody foresaw this" in caplog.text
    assert b'code="internal",route="/fails",status="500"' in telemetry.render()


async def test_what_an_answer_says_for_itself_stays() -> None:
    app = FastAPI(openapi_url=None)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Observe, observer=Telemetry().request)

    @app.get("/page")
    async def page() -> Any:
        headers = {"Cache-Control": "max-age=60", "Content-Security-Policy": "default-src 'self'"}
        return PlainTextResponse("x", headers=headers)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        response = await client.get("/page")
    assert response.headers["cache-control"] == "max-age=60"
    assert response.headers.get_list("content-security-policy") == ["default-src 'self'"]
