"""`POST /classify/image` and `POST /classify/video`."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse

from service.api.formats import TEXTS, preferred, text_response
from service.api.schemas import ImageClassified, Problem, Segment, VideoClassified, image_answer, video_answer
from service.api.state import State, state_of
from service.api.uploads import read_file
from service.bundle.manifest import Sampling
from service.errors import DeadlineExceeded
from service.predictor import Answer, Predictor
from service.priority import Priority

router = APIRouter(prefix="/classify", tags=["classify"])

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}}
    for status in (400, 404, 413, 415, 422, 429, 500, 503, 504)
}


def _in_the_loop(values: type) -> Callable[..., Awaitable[Any]]:
    """`values` as a dependency: FastAPI would make a class in a thread, for a tenth of what the event loop has to do for an image."""

    async def make(**given: Any) -> Any:
        return values(**given)

    make.__signature__ = inspect.signature(values)  # type: ignore[attr-defined]
    return make


@dataclass(frozen=True, slots=True)
class Wishes:
    """The query parameters that both endpoints share."""

    model: Annotated[str | None, Query(description="NAME or NAME:VERSION; default: the first that fits")] = None
    top_k: Annotated[int | None, Query(ge=0, description="0: all; default: all of up to 20 classes, else 5")] = None
    timeout_ms: Annotated[int | None, Query(ge=1, le=600_000, description="Deadline of the whole request")] = None
    priority: Annotated[Priority, Query(description="bulk yields to interactive")] = "interactive"


@router.post("/image", openapi_extra=_FORM, responses=_PROBLEMS, response_model_exclude_none=True)
async def image(request: Request, wishes: Annotated[Wishes, Depends(_in_the_loop(Wishes))]) -> ImageClassified:
    """Classify one image: JPEG, PNG, WebP, BMP or TIFF, by its content."""

    async def ask(model: Predictor, source: bytes | Path, deadline: float) -> Answer:
        return await model.image(source, deadline=deadline, priority=wishes.priority)

    async with _admitted(request, wishes) as state, state.registry.lease(wishes.model, task="image") as model:
        answer, timings = await _answer(request, state, model, ask, timeout_ms=wishes.timeout_ms)
    return image_answer(answer, model, top_k=wishes.top_k, request_id=request.state.request_id, timings=timings)


@router.post("/video", openapi_extra=_FORM, responses=_PROBLEMS, response_model_exclude_none=True)
async def video(
    request: Request,
    wishes: Annotated[Wishes, Depends(_in_the_loop(Wishes))],
    looks: Annotated[Looks, Depends(_in_the_loop(Looks))],
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> VideoClassified | StreamingResponse:
    """Classify one video, whole or window by window. The answer says which frames were looked at.

    With Accept: text/vtt or text/csv it is a file for a player or a spreadsheet, of the segments, or of the video as one.
    """
    async with _admitted(request, wishes) as state, state.registry.lease(wishes.model, task="video") as model:
        plan = model.plan(frames=looks.frames, window_s=looks.window_s, stride_s=looks.stride_s)

        async def ask(model: Predictor, source: bytes | Path, deadline: float) -> Answer:
            return await model.video(source, plan=plan, deadline=deadline, priority=wishes.priority)

        answer, timings = await _answer(request, state, model, ask, timeout_ms=wishes.timeout_ms)
    found = video_answer(
        answer,
        model,
        strategy=plan.strategy if isinstance(plan, Sampling) else "windows",
        window_s=window_s,
        top_k=wishes.top_k,
        request_id=request.state.request_id,
        timings=timings,
    )


@asynccontextmanager
async def _admitted(request: Request, wishes: Wishes) -> AsyncIterator[State]:
    """A place in the service, asked for before the body is read, so that a refusal costs nothing."""
    state = state_of(request)
    with state.admission.enter(priority=wishes.priority):
        yield state


async def _answer(
    request: Request,
    state: State,
    model: Predictor,
    ask: Callable[[Predictor, bytes, float], Awaitable[Answer]],
    *,
    timeout_ms: int | None,
) -> tuple[Answer, dict[str, float]]:
    """Read the upload and ask the model, all before the deadline; past it whatever still waits is withdrawn."""
    began = time.monotonic()
    limit_ms = timeout_ms or state.settings.timeout_ms
    try:
        async with asyncio.timeout(limit_ms / 1000):
            upload = await read_file(request, spool=state.spool, max_bytes=state.settings.max_upload_bytes)
            with upload:
                read_ms = (time.monotonic() - began) * 1000
                answer = await ask(model, upload.source, began + limit_ms / 1000)
    except TimeoutError:
        raise DeadlineExceeded(f"no answer within timeout_ms = {limit_ms}; raise it, or send a smaller file") from None
    timings = {"read": read_ms, **answer.timings_ms, "total": (time.monotonic() - began) * 1000}
    state.telemetry.stages(model.manifest.name, timings)
    return answer, timings
