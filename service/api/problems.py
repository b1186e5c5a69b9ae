"""Errors as RFC 9457 `application/problem+json`: the one place where an error becomes a response."""

from __future__ import annotations

import asyncio
import http
import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Draining, EngineError, InvalidParameter, MareyError, MissingKey, TooSlow

logger = logging.getLogger(__name__)

HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


def install(app: FastAPI, *, routes: Sequence[BaseRoute]) -> None:
    """Every error that leaves `app`, FastAPI's own included, leaves it as a problem."""
    app.add_exception_handler(MareyError, _marey)
    app.add_exception_handler(HTTPException, partial(_http, routes))
    app.add_exception_handler(RequestValidationError, _validation)


def problem(
    request: HTTPConnection,
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    return JSONResponse(
        document(request, status=status, code=code, title=title, detail=detail),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/problem+json",
    )


def document(request: HTTPConnection, *, status: int, code: str, title: str, detail: str) -> dict[str, str | int]:
    """The problem itself, for a log that names its code and for what carries it to the client."""
    request.state.code = code
    request_id: str = request.state.request_id
    said: dict[str, str | int] = {
        "type": f"urn:marey:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    # Clients of the Open Inference Protocol look for the sentence there, and show nothing without it.
    return {**said, "error": detail} if request.scope["path"].startswith("/v2") else said


def refusal(request: HTTPConnection, error: MareyError) -> JSONResponse:
    """The answer to an error of ours. It is an ASGI app itself: what refuses before routing calls it with its own arguments."""
    if isinstance(error, EngineError):
        logger.error("request %s: %s", request.state.request_id, error)
    headers = {}
    if isinstance(error, MissingKey):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooSlow):
        headers["Connection"] = "close"  # or the server would wait for the rest of the body
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return problem(
        request, status=error.status, code=error.code, title=error.title, detail=error.detail, headers=headers
    )


async def _marey(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MareyError)
    return refusal(request, error)


async def _http(routes: Sequence[BaseRoute], request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    title = http.HTTPStatus(error.status_code).phrase
    detail = f"{request.method} {request.url.path}: {error.detail}; the paths are listed under /docs"
    code = HTTP_CODES.get(error.status_code, "bad_request")
    not_allowed = error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED
    headers = {"Allow": _allowed(routes, request)} if not_allowed else error.headers
    return problem(request, status=error.status_code, code=code, title=title, detail=detail, headers=headers)


def _allowed(routes: Sequence[BaseRoute], request: Request) -> str:
    """The methods of every route that has this path: Starlette names those of the first alone."""
    fitting = (route for route in routes if route.matches(request.scope)[0] != Match.NONE)
    return ", ".join(sorted({method for route in fitting for method in getattr(route, "methods", None) or ()}))


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [_sentence(fault) for fault in error.errors()]
    return problem(
        request,
        status=InvalidParameter.status,
        code=InvalidParameter.code,
        title=InvalidParameter.title,
        detail="; ".join(faults),
    )


def _sentence(fault: Mapping[str, Any]) -> str:
    """What is wrong with which value: of the body as a whole, where no part of it is named."""
    place, given = fault["loc"], fault.get("input")
    if fault["type"] == "json_invalid":
        return f"the body is no JSON ({fault['ctx']['error']} at character {place[1]}); send JSON"
    if place == ("body",):
        what = "the body is missing" if given is None else f"the body = {given!r}"
        return f"{what}: {fault['msg']}"
    return f"{'.'.join(str(part) for part in place[1:])} = {given!r}: {fault['msg']}"


class Unexpected:
    """ASGI middleware: what nobody foresaw is a problem of status 500, and its trace is in the log.

    So is the end of the server's patience while it drains, when it cancels what still runs: a problem of status 503, without a trace.

    FastAPI's own handler for it stands outside all middleware, so that its answer would have neither id nor headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if scope["app"].state.marey.phase != "draining":
                raise
            if not started:  # else the server closes the connection
                late = Draining(
                    "the service is stopping and could not wait for this answer; send the request to another instance",
                    retry_after_s=1,
                )
                await refusal(Request(scope), late)(scope, receive, send)
        except Exception:
            if started:  # the server closes the connection: that is all that can still be said
                raise
            request = Request(scope)
            logger.exception("request %s failed unexpectedly", request.state.request_id)
            detail = "an error in the service, not in the request; its log has the details under this request_id"
            answer = problem(request, status=500, code=MareyError.code, title=MareyError.title, detail=detail)
            await answer(scope, receive, send)
