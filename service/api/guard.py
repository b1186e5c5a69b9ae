"""Who may ask, and how often: API keys and rate limits, before anything of a body is read.

`request.state.client` is the key's name afterwards, or "anonymous"; `request.state.admin` whether it may change what is served.

# Note [Without keys]
Everybody may ask then, and programs on this machine may do what admins do. A proxy on this machine would lend that to
everyone: so what was forwarded is not taken for local, nor is HTTP/1.0, which nginx speaks to its backends unless told
otherwise, nor a Host that does not name this machine, as after DNS rebinding. Behind a proxy, use keys.
A page of a foreign site, open in a browser that reaches this service, is refused wherever it could change anything:
CORS alone would only hide the answer from it.

# Note [Keys of browsers]
A page cannot set headers of a WebSocket. It offers two subprotocols, the one it speaks and `marey.key.TOKEN`; the second is
taken out here, so that nobody behind sees it, logs it or answers with it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache

from fastapi import Request
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import refusal
from service.errors import InvalidKey, MareyError, MissingKey, NotAllowed, RateLimited
from service.keys import ANONYMOUS, Key, Keys
from service.rates import Rates, caller_of

KEY_PROTOCOL = "marey.key."

# For probes, and for people who have a key but not yet a place to enter it.
_OPEN = frozenset(
    {
        "/",
        "/docs",
        "/openapi.json",
        "/favicon.ico",
        "/health/live",
        "/health/ready",
        "/v2/health/live",
        "/v2/health/ready",
    }
)
_OPEN_FOLDER = "/static/"
_FORWARDED = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "via",
)
# The name or address in a Host header, without its port.
_NAMED = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::\d*)?")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """ASGI middleware, for HTTP and WebSockets. `keys` None: everybody may ask. `origins`: sites whose pages may ask."""

    def __init__(self, app: ASGIApp, *, keys: Keys | None, rates: Rates, origins: Collection[str] = ()) -> None:
        self._app = app
        self._keys = keys
        self._rates = rates
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["client"], state["admin"] = ANONYMOUS, False
        try:
            if not _is_open(scope["path"]):
                self._admit(scope)
        except MareyError as error:
            await refusal(HTTPConnection(scope), error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        headers, state, rate = Headers(scope=scope), scope["state"], None
        if self._keys is None:
            caller = caller_of(_host(scope))
            if self._is_cross_site(scope, headers):
                raise NotAllowed(
                    f"a page of {headers.get('origin', 'another site')[:100]} may not ask this service; "
                    "add the site to MAREY_CORS_ORIGINS if it should"
                )
            state["admin"] = _is_local(scope, headers)
        else:
            key = self._key_of(scope, headers, self._keys)
            caller, rate = f"key {key.name}", key.rate
            state["client"], state["admin"] = key.name, key.admin
        wait = self._rates.take(caller, rate=rate)
        if wait > 0:
            whom = caller if self._keys else f"address {caller}"
            later = f"in {wait:.1f} s" if wait >= 0.1 else "in less than 0.1 s"
            raise RateLimited(f"the {whom} asks too often; retry {later}, and then less often", retry_after_s=wait)

    @staticmethod
    def _key_of(scope: Scope, headers: Headers, keys: Keys) -> Key:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scope["type"] == "websocket":
            offered = list(scope.get("subprotocols", ()))
            scope["subprotocols"] = [each for each in offered if not each.startswith(KEY_PROTOCOL)]
            given = [each for each in offered if each.startswith(KEY_PROTOCOL)]
            scope["headers"] = [each for each in scope["headers"] if each[0] != b"sec-websocket-protocol"]
            if given and not scheme:
                scheme, token = "Bearer", given[0].removeprefix(KEY_PROTOCOL)
        if not scheme:
            raise MissingKey("this service asks for an API key; send the header Authorization: Bearer KEY")
        if scheme.lower() != "bearer" or not token.strip():
            raise InvalidKey("the Authorization header is not of the form Authorization: Bearer KEY")
        return keys.find(token.strip())

    def _is_cross_site(self, scope: Scope, headers: Headers) -> bool:
        """Whether a browser sends this for a page of another site, and it could change anything or be read."""
        origin = headers.get("origin")
        if (scope["type"] == "http" and scope["method"] in _SAFE) or {origin, "*"} & self._origins:
            return False
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site not in ("same-origin", "none")
        return origin is not None and origin.partition("://")[2] != headers.get("host", "")


def require_admin(request: Request) -> None:
    """For routes that change what is served. Raises NotAllowed."""
    if request.state.admin:
        return
    if request.state.client == ANONYMOUS:
        raise NotAllowed("without API keys only programs on the service's own machine may do this; set MAREY_KEYS")
    raise NotAllowed(f"the key {request.state.client!r} is not an admin's; marey key NAME --admin makes one that is")


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_FOLDER)


def _host(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _is_local(scope: Scope, headers: Headers) -> bool:
    """See Note [Without keys]."""
    if scope.get("http_version") == "1.0" or any(name in headers for name in _FORWARDED):
        return False
    named = _NAMED.fullmatch(headers.get("host", ""))
    host = named[1].strip("[]").lower() if named else ""
    return _is_loopback(_host(scope)) and (host == "localhost" or (len(host) < 64 and _is_loopback(host)))


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
