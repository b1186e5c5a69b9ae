"""The outermost layer: gives each request its id and its trace, and counts, times and logs its answer.

What is further in says more of a request by `request.state`: `code` of a problem, `timings` of its stages in milliseconds, and
`answered_by`, the model, version, engine, precision and batch size that the answer came from.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import REQUEST
from service.traces import STAGES, Stage, Trace, Traces, trace_id_of

logger = logging.getLogger(__name__)

UNMATCHED = "unmatched"
# Asked for every few seconds by probes and scrapers.
_QUIET = frozenset({"/health/live", "/health/ready", "/metrics", "/v2/health/live", "/v2/health/ready"})
_USABLE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_IDENTIFYING = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
_STARTS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})


class Observer(Protocol):
    """Is told of every answer; `seconds` is None for a WebSocket, which lasts as long as its client wants."""

    def __call__(self, *, route: str, status: int, code: str, seconds: float | None) -> None: ...


class Observe:
    """ASGI middleware. A client's own X-Request-ID is kept where it is harmless, and always sent back.

    `paths`: of routes without parameters, so that what is refused before routing is counted where it belongs.
    """

    def __init__(
        self, app: ASGIApp, *, observer: Observer, paths: Collection[str] = (), traces: Traces | None = None
    ) -> None:
        self._app = app
        self._observer = observer
        self._paths = frozenset(paths)
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        state: dict[str, Any] = scope.setdefault("state", {})
        trace = self._identify(scope, state)
        stages: list[Stage] | None = [] if trace is not None and trace.wanted and scope["type"] == "http" else None
        added = [(b"x-request-id", state["request_id"].encode())]
        if trace is not None:
            added.append((b"traceresponse", trace.response.encode()))
        status = 500  # unless an answer begins

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in _STARTS:
                status = message.get("status", 101)
                headers = [*message.get("headers", ()), *added]
                if "timings" in state:
                    headers.append((b"server-timing", _server_timing(state["timings"])))
                message["headers"] = headers
            await send(message)

        of_request, of_stages = REQUEST.set(state), STAGES.set(stages)
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:  # after the answer had begun
            state.setdefault("code", "internal")
            raise
        finally:
            self._tell(scope, state, status=status, seconds=time.monotonic() - began, trace=trace, stages=stages or [])
            REQUEST.reset(of_request)
            STAGES.reset(of_stages)

    def _identify(self, scope: Scope, state: dict[str, Any]) -> Trace | None:
        """Give the request its id, and the trace that it belongs to, if any."""
        given: dict[bytes, bytes] = {name: value for name, value in scope["headers"] if name in _IDENTIFYING}
        wished = given.pop(b"x-request-id", b"")
        state["request_id"] = wished.decode() if _USABLE_ID.fullmatch(wished) else uuid.uuid4().hex
        if self._traces is not None and scope["path"] not in _QUIET:
            parent = {name.decode(): value.decode("latin-1") for name, value in given.items()}
            trace = self._traces.begin(_method(scope), parent=parent)
            state["trace_id"] = trace.trace_id
            return trace
        if given and (trace_id := trace_id_of(given.get(b"traceparent", b"").decode("latin-1"))):
            state["trace_id"] = trace_id
        return None

    def _tell(
        self,
        scope: Scope,
        state: dict[str, Any],
        *,
        status: int,
        seconds: float,
        trace: Trace | None,
        stages: list[Stage],
    ) -> None:
        route, method = self._route(scope), _method(scope)
        code = state.get("code", "ok" if status < 500 else "internal")
        self._observer(route=route, status=status, code=code, seconds=seconds if scope["type"] == "http" else None)
        answered_by: Mapping[str, str | int] = state.get("answered_by", {})
        level = logging.DEBUG if route in _QUIET else logging.INFO
        if logger.isEnabledFor(level):
            milliseconds = round(seconds * 1000, 1)
            fields = {
                "method": method,
                "route": route,
                "status": status,
                "code": code,
                "ms": milliseconds,
                **answered_by,
            }
            text = "%s %s %d %s %.0f ms %s %s"
            extra = {"fields": fields}
            client = state.get("client", "-")
            logger.log(level, text, method, route, status, code, milliseconds, client, state["request_id"], extra=extra)
        if trace is not None:
            attributes: dict[str, str | float] = {
                "http.request.method": scope.get("method", "GET"),
                "http.route": route,
                "http.response.status_code": status,
                "marey.request_id": state["request_id"],
                "marey.client": state.get("client", ""),
                "marey.code": code,
                **{f"marey.{name}": value for name, value in answered_by.items()},
            }
            failed = code if status >= 500 else None
            trace.end(name=f"{method} {route}", stages=stages, attributes=attributes, failed=failed)

    def _route(self, scope: Scope) -> str:
        """The matched route, not the path: a client must not be able to make up label values."""
        matched = getattr(scope.get("route"), "path", None)
        if matched is None and scope["path"] in self._paths:
            matched = scope["path"]
        return UNMATCHED if matched is None else str(matched)


def _method(scope: Scope) -> str:
    return str(scope["method"]) if scope["type"] == "http" else "WS"


def _server_timing(timings: Mapping[str, float]) -> bytes:
    """As the browsers' developer tools show it; `timings` in milliseconds."""
    return ", ".join(f"{stage};dur={milliseconds:.2f}" for stage, milliseconds in timings.items()).encode()
