"""uvicorn with our own signals: SIGTERM and SIGINT answer what was accepted, then the process exits 0."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
from collections.abc import Iterator
from types import FrameType

import uvicorn

from service.api.app import create_app
from service.api.state import State
from service.api.stream import max_message_bytes
from service.errors import DeviceLost
from service.http import Http
from service.logs import tell
from service.predictor import Predictor
from service.settings import Settings

logger = logging.getLogger(__name__)


class _Refusals(logging.Filter):
    """uvicorn 0.54 takes a WebSocket that is refused in HTTP for one that was forgotten."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "ASGI callable returned without completing handshake."


class Server(uvicorn.Server):
    """uvicorn raises the signal again after its drain, and so exits with 143; an orderly stop is no error."""

    state: State

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT while serving; put the former handlers back afterwards, and raise nothing."""

        def drain(number: int, frame: FrameType | None) -> None:
            self.state.phase = "draining"  # readiness goes first
            self.handle_exit(number, frame)

        former = {number: signal.signal(number, drain) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, then say where: with port 0 nobody could know."""
        await super().startup(sockets)  # type: ignore[arg-type]
        for server in getattr(self, "servers", ()):
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
                tell(f"marey listens on {where} (try /docs)", form=self.state.settings.log_format)


def run(settings: Settings) -> int:
    """Serve until told to stop; returns the exit code: 0 after an orderly stop, 1 if it could not serve or its GPU failed."""

    def loaded(state: State) -> None:
        # What is there now stays: left out of every later collection, it saves the event loop a twentieth of its time.
        gc.collect()
        gc.freeze()
        if state.failure is None:
            running = ", ".join(_running(model) for model in state.registry.models)
            tell(f"marey is ready: {running}", form=settings.log_format)
        else:
            tell(str(state.failure), form=settings.log_format, error=True)
            server.should_exit = True

    def lost(error: DeviceLost) -> None:
        server.state.failure = error
        tell(str(error), form=settings.log_format, error=True)
        server.should_exit = True  # containers are restarted when they end, and not because a probe fails

    app = create_app(settings, on_loaded=loaded, on_lost=lost)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Http,
        loop="uvloop",
        # Of the package that our own client takes, without its deprecated half: reads one message at a time, waits for slow readers.
        ws="websockets-sansio",
        ws_max_size=max_message_bytes(settings) + 2**16,  # what is just above is refused with a sentence
        ws_per_message_deflate=False,  # images do not shrink
        lifespan="on",
        log_config=None,
        log_level=settings.log_level,
        access_log=False,  # ours has the request's id
        server_header=False,
        proxy_headers=False,  # whoever is near could say to come from anywhere
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    logging.getLogger("uvicorn.error").addFilter(_Refusals())
    if settings.keys is None and settings.host not in ("localhost", "127.0.0.1", "::1"):
        logger.warning("everybody who can reach %s may ask; set MAREY_KEYS to ask for API keys", settings.host)
    server = Server(config)
    server.state = app.state.marey
    try:
        server.run()
    except SystemExit:  # uvicorn has logged why, a taken port as a rule
        return 1
    return 1 if server.state.failure is not None else 0


def _running(model: Predictor) -> str:
    return f"{model.manifest.name} {model.manifest.version} on {model.info.name} {model.info.precision}"
