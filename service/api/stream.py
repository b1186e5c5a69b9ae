"""`WS /classify/stream`: a live stream in, what it shows out, with each frame's latency.

The client sends images as binary messages, each after a text message `{"time_s": …, "duration_s": …}` if it has a clock of its
own; or, with `format=webm` or `mpegts`, encoded video in pieces of any size. It gets JSON. A frame that falls between the points
of the grid costs nothing. Where frames come faster than they are answered the oldest that waits is dropped, and counted in the
next message: what is said is said of now. With `drop=false` the sender waits instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, Field, ValidationError

from service.api.inflow import IDLE_S, WAITING_FRAMES, Format, Inflow
from service.api.problems import refusal
from service.api.session import Session
from service.api.state import State, state_of
from service.errors import InvalidParameter, MareyError, Overloaded
from service.live import plan_of
from service.media.live_decoder import LiveDecoder
from service.settings import Settings

router = APIRouter()

# What a browser offers beside its key: it closes a stream that is accepted under no name.
PROTOCOL = "marey"

_MAX_MESSAGE_BYTES = 8 * 2**20
_TIMEOUT_MS = 5000


class Wishes(BaseModel):
    """The query: as of `/classify/video`, with an answer for each frame unless `stride_s` says otherwise."""

    model: str | None = None
    frames: Annotated[int | None, Field(ge=1)] = None
    window_s: Annotated[float | None, Field(ge=0.04, le=86_400)] = None
    stride_s: Annotated[float | None, Field(ge=0.01, le=86_400)] = None
    top_k: Annotated[int | None, Field(ge=0)] = None
    timeout_ms: Annotated[int | None, Field(ge=1, le=600_000)] = None
    format: Format = "images"
    drop: bool = True


def max_message_bytes(settings: Settings) -> int:
    """One image, or one piece of an encoded stream."""
    return min(_MAX_MESSAGE_BYTES, settings.max_upload_bytes)


@router.websocket("/classify/stream")
async def stream(websocket: WebSocket) -> None:
    """What is refused at once is refused in HTTP, with its status and problem; see `Session` for the rest."""
    state = state_of(websocket)
    try:
        wishes = _wishes(websocket)
        with _place(state):
            await _serve(websocket, state, wishes)
    except MareyError as error:
        await refusal(websocket, error)(websocket.scope, websocket.receive, websocket.send)


async def _serve(websocket: WebSocket, state: State, wishes: Wishes) -> None:
    settings = state.settings
    async with state.registry.lease(wishes.model, task="video") as model:
        plan = plan_of(model, frames=wishes.frames, window_s=wishes.window_s, stride_s=wishes.stride_s)
    timeout_ms = min(settings.timeout_ms, wishes.timeout_ms or _TIMEOUT_MS)
    limits = {
        "max_message_bytes": max_message_bytes(settings),
        "max_pixels": settings.max_pixels,
        "waiting_frames": WAITING_FRAMES,
        "timeout_ms": timeout_ms,
        "idle_s": IDLE_S,
    }
    async with _decoder(state, wishes.format) as decoder:
        inflow = Inflow(
            spacing_s=plan.window_s / plan.frames,
            spec=model.manifest.input,
            form=wishes.format,
            decoder=decoder,
            hold=not wishes.drop,
            max_bytes=max_message_bytes(settings),
        )
        session = Session(
            websocket, state, inflow, model=model, plan=plan, top_k=wishes.top_k, timeout_s=timeout_ms / 1000
        )
        del model  # held for one frame at a time from here on
        offered = websocket.scope.get("subprotocols", ())
        await websocket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
        await session.run(encoded=decoder is not None, limits=limits)


@asynccontextmanager
async def _decoder(state: State, form: Format) -> AsyncIterator[LiveDecoder | None]:
    if form == "images":
        yield None
        return
    pool = state.registry.decoders
    decoder = LiveDecoder(limits=pool.limits, memory_bytes=pool.memory_bytes, cpu_s=pool.timeout_s)
    try:
        yield decoder
    finally:
        await decoder.close()


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
