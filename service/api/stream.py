"""`WS /classify/stream`: frames of a live stream in, what they show out, with each frame's latency."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, Field, ValidationError

from service.api.problems import refusal
from service.api.session import Session
from service.api.state import State, state_of
from service.errors import InvalidParameter, MareyError, Overloaded
from service.live import plan_of

router = APIRouter()

# What a browser offers beside its key: it closes a stream that is accepted under no name.
PROTOCOL = "marey"


class Wishes(BaseModel):
    """The query: as of `/classify/video`, with an answer for each frame unless `stride_s` says otherwise."""

    model: str | None = None
    frames: Annotated[int | None, Field(ge=1)] = None
    window_s: Annotated[float | None, Field(ge=0.04, le=86_400)] = None
    stride_s: Annotated[float | None, Field(ge=0.01, le=86_400)] = None
    top_k: Annotated[int | None, Field(ge=0)] = None
    timeout_ms: Annotated[int | None, Field(ge=1, le=600_000)] = None


@router.websocket("/classify/stream")
async def stream(websocket: WebSocket) -> None:
    """See `Session`. What is refused at once is refused in HTTP, with its problem and status."""
    state = state_of(websocket)
    try:
        wishes = _wishes(websocket)
        with _place(state):
            async with state.registry.lease(wishes.model, task="video") as model:
                plan = plan_of(model, frames=wishes.frames, window_s=wishes.window_s, stride_s=wishes.stride_s)
            session = Session(websocket, state, model, plan, top_k=wishes.top_k, timeout_ms=wishes.timeout_ms)
            offered = websocket.scope.get("subprotocols", ())
            await websocket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
            await session.run()
    except MareyError as error:
        await refusal(websocket, error)(websocket.scope, websocket.receive, websocket.send)


@contextmanager
def _place(state: State) -> Iterator[None]:
    """One of the streams that the service takes; raises NotReady, Draining or Overloaded."""
    state.refuse_unless_ready()
    limit = state.settings.max_streams
    if state.streams >= limit:
        raise Overloaded(
            f"{state.streams} streams are open, the limit is {limit}; retry later, or raise MAREY_MAX_STREAMS",
            retry_after_s=5,
        )
    state.streams += 1
    try:
        yield
    finally:
        state.streams -= 1


def _wishes(websocket: WebSocket) -> Wishes:
    try:
        return Wishes.model_validate(dict(websocket.query_params))
    except ValidationError as error:
        fault = error.errors()[0]
        raise InvalidParameter(f"{fault['loc'][0]} = {fault['input']!r}: {fault['msg']}") from None
