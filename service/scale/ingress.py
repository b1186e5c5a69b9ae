"""A replica that takes requests: the application of `marey serve`, whose networks run elsewhere.

# Note [Ray ends a request]
Where a client hangs up, Ray cancels whatever answers it, or raises where that reads on. ASGI has a message for it, by which the
application gives back what it has taken, and counts a client that has gone: a task that is cancelled looks like a fault of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

from ray.exceptions import RayError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.api.app import create_app
from service.api.state import Outside, State
from service.errors import EngineError
from service.registry.catalogue import Key
from service.scale.board import Telling, own_name
from service.scale.distant import DistantEngines
from service.settings import Settings

_ID = b"x-request-id"
# That the application has, once its client has gone.
_LEAVE_S = 5.0


class Ingress:
    """A Serve deployment, whose application Ray asks for once this is made.

    `jobs`: why it takes none, where another replica does.
    """

    def __init__(self, settings: Settings, keys: Sequence[Key], *, jobs: str | None) -> None:
        logs.configure(level=settings.log_level, form=settings.log_format)
        self._settings = settings
        self._jobs = jobs
        self._engines = DistantEngines(keys)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        telling = Telling(own_name())
        app = create_app(self._settings, outside=Outside(self._engines, telling.exposition, self._jobs))
        self._state: State = app.state.marey
        telling.start(self._state.telemetry, drain=self._drain)
        return Behind(app)

    async def check_health(self) -> None:
        """Asked by Ray, which sends nothing here before the first answer, and puts another in the place of one that raises."""
        await self._state.loaded.wait()
        if self._state.failure is not None:
            raise self._state.failure
        if self._state.registry.ended:
            raise EngineError("something has ended that only a new replica brings back")

    def _drain(self) -> None:
        """As `marey serve` after SIGTERM: what comes is refused with 503, what was accepted is answered."""
        self._state.phase = "draining"


class Behind:
    """ASGI middleware for what stands behind Ray's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        # Ray's, for the share of the paths that it sends here; ours begin at the root.
        scope["root_path"] = ""
        given = next((value for name, value in scope["headers"] if name == _ID), None)

        async def send_once(message: Message) -> None:
            """The proxy adds the request's id itself, which it has made where the client gave none."""
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message.get("headers", ()) if (name, value) != (_ID, given)]
                message = {**message, "headers": headers}
            await send(message)

        ended = asyncio.Event()

        async def receive_or_end() -> Message:
            if not ended.is_set() and (message := await _unless(ended, receive())) is not None:
                return message
            return {"type": "http.disconnect" if scope["type"] == "http" else "websocket.disconnect"}

        answering = asyncio.ensure_future(self._app(scope, receive_or_end, send_once))
        try:
            await asyncio.shield(answering)
        except asyncio.CancelledError:  # see Note [Ray ends a request]
            ended.set()
            await asyncio.wait({answering}, timeout=_LEAVE_S)
            answering.cancel()
            raise


async def _unless(ended: asyncio.Event, receiving: Awaitable[Message]) -> Message | None:
    """What is received, or None where the request ends before, or Ray says so by raising."""
    message, end = asyncio.ensure_future(receiving), asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({message, end}, return_when=asyncio.FIRST_COMPLETED)
        return message.result() if message.done() else None
    except RayError:
        return None
    finally:
        message.cancel()
        end.cancel()
