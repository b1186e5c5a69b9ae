"""The outermost layer: gives each request its id, and counts, times and logs its answer."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

# Asked for every few seconds by probes and scrapers.
_QUIET = frozenset({"/health/live", "/health/ready", "/metrics"})
_USABLE_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")


class Observer(Protocol):
    """Is told of every answer."""

    def __call__(self, *, route: str, status: int, code: str, seconds: float) -> None: ...


class Observe:
    """ASGI middleware. A client's own X-Request-ID is kept where it is harmless, and always sent back."""

    def __init__(self, app: ASGIApp, *, observer: Observer) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if _USABLE_ID.match(given) else uuid.uuid4().hex
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 500  # unless an answer begins

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            # The matched route, not the path: a client must not be able to make up label values.
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.monotonic() - began
            code = state.get("code", "ok" if status < 500 else "internal")
            self._observer(route=route, status=status, code=code, seconds=seconds)
            level = logging.DEBUG if route in _QUIET else logging.INFO
            logger.log(
                level, "%s %s %d %s %.0f ms %s", scope["method"], route, status, code, seconds * 1000, request_id
            )
