"""Refusals before routing: under overload most answers are refusals, and each must cost next to nothing.

The body is not waited for, nor is the connection closed under a client that still sends it: the server discards it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from service.admission import Admission
from service.api.problems import refusal
from service.errors import MareyError
from service.priority import Priority


@dataclass(frozen=True, slots=True)
class _Route:
    """What is guarded, by the path that the metrics know it by; see `Admission.enter`."""

    path: str
    decodes: bool = True
    later: bool = False


_ROUTES = {path: _Route(path) for path in ("/classify/image", "/classify/video")}
_JOBS = _Route("/jobs", later=True)
_INFER = _Route("/v2/models/{name}/infer", decodes=False)
_INFER_VERSION = _Route("/v2/models/{name}/versions/{version}/infer", decodes=False)


class Door:
    """ASGI middleware: whoever would be refused by the route that is asked for is refused here."""

    def __init__(self, app: ASGIApp, *, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (route := _route(scope["path"])) is not None:
            try:
                self._check(scope, route)
            except MareyError as error:
                scope["route"] = route  # as the router would, for those who count
                await refusal(HTTPConnection(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, route: _Route) -> None:
        if route.later:
            self._admission.check(priority="bulk")
            return
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"))) if scope["query_string"] else {}
        priority: Priority = "bulk" if query.get("priority") == "bulk" else "interactive"
        stated = query.get("timeout_ms") or _header(scope, b"x-timeout-ms")
        # What is no number the route refuses, with its own sentence.
        deadline_s = int(stated) / 1000 if stated.isascii() and stated.isdigit() and len(stated) < 8 else math.inf
        self._admission.check(priority=priority, deadline_s=deadline_s, decodes=route.decodes)


def _route(path: str) -> _Route | None:
    if (route := _ROUTES.get(path)) is not None:
        return route
    if path == "/jobs":
        return _JOBS
    if path.startswith("/v2/models/") and path.endswith("/infer"):
        return _INFER_VERSION if "/versions/" in path else _INFER
    return None


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
