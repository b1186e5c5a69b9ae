"""Headers that tell browsers to trust an answer with no more than it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Answers are data: whatever a browser is talked into showing them as, nothing in them runs.
_DATA = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
# The page to try the service with: its own files, what it draws from memory, and the service itself.
_PAGE = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    b"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", b"geolocation=(), microphone=()"),
)
_FOLDER = "/static/"

# What pages of the sites in MAREY_CORS_ORIGINS may send and read; without cookies, which this service has none of.
CORS: Mapping[str, Any] = {
    "allow_methods": ("GET", "POST", "DELETE"),
    "allow_headers": (
        "Authorization",
        "Content-Type",
        "Inference-Header-Content-Length",
        "X-Request-ID",
        "X-Timeout-Ms",
        "traceparent",
        "tracestate",
    ),
    "expose_headers": (
        "Inference-Header-Content-Length",
        "Link",
        "Location",
        "Retry-After",
        "Server-Timing",
        "X-Request-ID",
        "traceresponse",
    ),
}


class SecurityHeaders:
    """ASGI middleware. What an answer has set for itself stays. `shared`: pages of other sites may ask, by CORS."""

    def __init__(self, app: ASGIApp, *, shared: bool = False) -> None:
        self._app = app
        resources = (b"cross-origin-resource-policy", b"cross-origin" if shared else b"same-origin")
        # An answer is about what somebody sent: no cache on the way has any business with it.
        self._data = (*_ALWAYS, resources, (b"content-security-policy", _DATA), (b"cache-control", b"no-store"))
        self._page = (*_ALWAYS, resources, (b"content-security-policy", _PAGE), (b"cache-control", b"no-cache"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        added = self._page if path == "/" or path.startswith(_FOLDER) else self._data

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = list(message.get("headers", ()))
                present = {name for name, _ in headers}
                headers += [header for header in added if header[0] not in present]
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_with_headers)
