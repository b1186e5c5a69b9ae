"""The composition root: joins settings, models and routes into one application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from service import __version__
from service.api import classify, docs, jobs, models, page, problems, repository, routes, stream
from service.api.door import Door
from service.api.guard import Guard
from service.api.headers import CORS, SecurityHeaders
from service.api.observe import Observe
from service.api.state import Outside, State
from service.api.v2 import infer
from service.api.v2 import routes as v2
from service.api.v2.statistics import Statistics
from service.errors import DeviceLost, MareyError
from service.keys import Keys
from service.rates import Rates
from service.settings import Settings
from service.traces import Traces

if TYPE_CHECKING:
    from service.fetch import Fetcher

logger = logging.getLogger(__name__)

_DESCRIPTION = (
    "Where the service has API keys, each request needs one: Authorization: Bearer KEY. Every answer has an X-Request-ID, which "
    "the log has too. Live streams go over a WebSocket: WS /classify/stream."
)


def create_app(
    settings: Settings,
    *,
    on_loaded: Callable[[State], None] | None = None,
    on_lost: Callable[[DeviceLost], None] = lambda _error: None,
    fetcher: Fetcher | None = None,
    outside: Outside | None = None,
) -> FastAPI:
    """Models are loaded after the server has begun to listen, so that it can say that it is loading.

    `on_loaded` is called once that has ended, well or not; see `State.failure`. `on_lost`: see `State`.
    `outside`: see `State`. `fetcher`: what fetches URLs where that is allowed; by default one that asks public addresses only.
    Raises KeysError where there is a file of API keys and it cannot be used, ServiceError where traces are asked for without the extra.
    """
    keys = Keys(settings.keys) if settings.keys is not None else None
    traces = Traces() if settings.traces else None
    state = State(settings, on_lost=on_lost, outside=outside)
    if settings.allow_urls:
        state.fetcher = fetcher or _fetcher()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(state, on_loaded))
        describing = asyncio.create_task(_describe(app, state))
        try:
            yield
        finally:
            state.phase = "draining"
            state.registry.stop()
            loading.cancel()  # nobody will ask for what is not loaded yet
            describing.cancel()
            await asyncio.gather(loading, describing, return_exceptions=True)
            await state.desk.close()
            await state.registry.close()
            await asyncio.to_thread(state.nvml.close)
            if state.fetcher is not None:
                state.fetcher.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)
            await asyncio.to_thread(state.spool.close)

    app = FastAPI(
        title="Marey",
        version=__version__,
        summary="What an image or a video shows, by CNN-LSTM models.",
        description=_DESCRIPTION,
        docs_url=None,  # ours needs no internet
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.marey = state
    app.state.statistics = Statistics()

    # In the order in which they are tried: those first that take most of the requests.
    routers = (
        classify.router,
        infer.router,
        jobs.router,
        routes.router,
        stream.router,
        page.router,
        v2.router,
        models.router,
        repository.router,
        docs.router,
    )
    for router in routers:
        app.include_router(router)
    listed = [route for router in routers for route in router.routes]
    paths = {str(getattr(route, "path", "")) for route in listed}
    # From the innermost outwards: each sees what those below it let through.
    app.add_middleware(Door, admission=state.admission)
    app.add_middleware(Guard, keys=keys, rates=Rates(settings.rate_limit), origins=settings.cors_origins)
    app.add_middleware(problems.Unexpected)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **CORS)
    app.add_middleware(SecurityHeaders, shared=bool(settings.cors_origins))
    app.add_middleware(Observe, observer=state.telemetry.request, paths=paths, traces=traces)
    problems.install(app, routes=listed)
    return app


async def _describe(app: FastAPI, state: State) -> None:
    """Make `/openapi.json` before anybody asks: the first time takes the loop's time of a hundred requests, so in a thread."""
    await state.loaded.wait()  # that it takes from the models' time, too
    await asyncio.to_thread(app.openapi)


async def _load(state: State, on_loaded: Callable[[State], None] | None) -> None:
    try:
        await asyncio.to_thread(state.spool.open)
        await state.desk.open()
        await state.registry.start()
    except Exception as error:  # whatever it was: the service says that it is not ready, and why
        state.failure = error if isinstance(error, MareyError) else MareyError(f"loading failed: {error!r}")
        if state.failure is not error:
            logger.exception("the models could not be loaded")
        state.phase = "failed"
    if state.phase == "loading":
        state.phase = "ready"
        state.desk.start()
    state.loaded.set()
    if on_loaded is not None:
        on_loaded(state)


def _fetcher() -> Fetcher:
    from service.fetch import Fetcher  # noqa: PLC0415  # brings httpx, for which most services need not wait

    return Fetcher()
