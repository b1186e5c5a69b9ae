"""`POST /classify/image` and `POST /classify/video`."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse

from service.admission import Ticket
from service.api.formats import TEXTS, preferred, text_response
from service.api.intake import BODY, is_url, read_upload
from service.api.presence import Presence
from service.api.schemas import ImageClassified, Segment, VideoClassified, image_answer, refusals, video_answer
from service.api.state import State, state_of
from service.bundle.manifest import Sampling, Task
from service.errors import DeadlineExceeded
from service.media.frames import Decoded
from service.predictor import Answer, Predictor
from service.priority import Priority
from service.spool import IN_MEMORY
from service.traces import stage

router = APIRouter(prefix="/classify", tags=["classify"])

_PROBLEMS = refusals(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504, 507)


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
    timeout_ms: Annotated[
        int | None,
        Query(ge=1, le=600_000, description="Deadline of the whole request; past it 504, and no work is done"),
    ] = None
    x_timeout_ms: Annotated[int | None, Header(ge=1, le=600_000, description="As timeout_ms, which goes before it")] = (
        None
    )
    priority: Annotated[
        Priority, Query(description="bulk yields to interactive, and may wait for as long as its deadline allows")
    ] = "interactive"


@dataclass(frozen=True, slots=True)
class Looks:
    """The query parameters that say how a video is looked at."""

    frames: Annotated[int | None, Query(ge=1, description="Frames to look at, in the clip or in each window")] = None
    window_s: Annotated[
        float | None, Query(ge=0.04, le=86_400, description="Cut the video into windows of so many seconds")
    ] = None
    stride_s: Annotated[
        float | None, Query(ge=0.01, le=86_400, description="From one window to the next; default: window_s")
    ] = None
    merge: Annotated[
        bool, Query(description="Neighbouring windows that say the same become one segment; false: every window")
    ] = True


@router.post("/image", openapi_extra=BODY, responses=_PROBLEMS, response_model_exclude_none=True)
async def image(request: Request, wishes: Annotated[Wishes, Depends(_in_the_loop(Wishes))]) -> ImageClassified:
    """Classify one image: JPEG, PNG, WebP, BMP or TIFF, by its content."""
    async with _admitted(request, wishes) as place, place.leased(wishes.model, task="image") as model:
        answer, timings = await _answer(
            request, place, model, partial(model.image, priority=wishes.priority), frames=model.frames(None)
        )
    return image_answer(answer, model, top_k=wishes.top_k, request_id=request.state.request_id, timings=timings)


@router.post(
    "/video",
    openapi_extra=BODY,
    responses={**_PROBLEMS, **TEXTS},
    response_model=VideoClassified,
    response_model_exclude_none=True,
)
async def video(
    request: Request,
    wishes: Annotated[Wishes, Depends(_in_the_loop(Wishes))],
    looks: Annotated[Looks, Depends(_in_the_loop(Looks))],
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> VideoClassified | StreamingResponse:
    """Classify one video, whole or window by window. The answer says which frames were looked at.

    With Accept: text/vtt or text/csv it is a file for a player or a spreadsheet, of the segments, or of the video as one.
    """
    async with _admitted(request, wishes) as place, place.leased(wishes.model, task="video") as model:
        plan = model.plan(frames=looks.frames, window_s=looks.window_s, stride_s=looks.stride_s)
        answer, timings = await _answer(
            request, place, model, partial(model.video, plan=plan, priority=wishes.priority), frames=model.frames(plan)
        )
    found = video_answer(
        answer,
        model,
        strategy=plan.strategy if isinstance(plan, Sampling) else "windows",
        window_s=looks.window_s,
        merge=looks.merge,
        top_k=wishes.top_k,
        request_id=request.state.request_id,
        timings=timings,
    )
    form = preferred(accept)
    if form == "json":
        return found
    whole = Segment(start_s=0, end_s=found.video.duration_s, windows=1, predictions=found.predictions)
    return text_response(
        [whole] if found.segments is None else found.segments,
        form=form,
        model=found.model,
        multi_label=model.manifest.network.multi_label,
        every=wishes.top_k is not None,
    )


class _Ask(Protocol):
    """`Predictor.image` or `.video`, with all that is asked of it but this."""

    def __call__(
        self, source: bytes | Path, /, *, deadline: float, arrived: Callable[[Decoded], None]
    ) -> Awaitable[Answer]: ...


@dataclass(frozen=True, slots=True)
class _Place:
    """One request's place in the service, and how long it may keep it; `began` in monotonic seconds."""

    state: State
    ticket: Ticket
    limit_ms: int
    began: float

    @property
    def deadline(self) -> float:
        return self.began + self.limit_ms / 1000

    def leased(self, model: str | None, *, task: Task) -> AbstractAsyncContextManager[Predictor]:
        return self.state.registry.lease(model, task=task, deadline=self.deadline)

    def too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"no answer within timeout_ms = {self.limit_ms}; raise it, or send a smaller file")


@asynccontextmanager
async def _admitted(request: Request, wishes: Wishes) -> AsyncIterator[_Place]:
    """A place in the service, asked for before the body is read, so that a refusal costs nothing."""
    state, began = state_of(request), time.monotonic()
    limit_ms = wishes.timeout_ms or wishes.x_timeout_ms or state.settings.timeout_ms
    with state.admission.enter(priority=wishes.priority, deadline_s=limit_ms / 1000) as ticket:
        yield _Place(state, ticket, limit_ms, began)


async def _answer(
    request: Request, place: _Place, model: Predictor, ask: _Ask, *, frames: int
) -> tuple[Answer, dict[str, float]]:
    """Read the upload and ask the model, all before the deadline; past it whatever still waits is withdrawn.

    `frames`: how many it will be, as far as that is known before the file is decoded.
    """
    state, ticket = place.state, place.ticket
    expected = frames * model.frame_bytes

    def arrived(decoded: Decoded) -> None:
        ticket.hold(max(0, decoded.clip.frames.nbytes - expected))
        ticket.decoded()

    try:
        async with asyncio.timeout(place.deadline - time.monotonic()):
            ticket.hold(_held(request))
            upload = await read_upload(request, state, max_bytes=state.settings.max_upload_bytes)
            with upload:
                read_ms = (time.monotonic() - place.began) * 1000
                stage("read", place.began, place.began + read_ms / 1000, bytes=upload.size)
                ticket.hold(expected)
                ticket.queue(frames, seconds=model.device_s(frames))
                async with Presence(request.receive):
                    answer = await ask(upload.source, deadline=place.deadline, arrived=arrived)
    except TimeoutError:
        raise place.too_late() from None
    if time.monotonic() > place.deadline:  # the loop was busy when it passed
        raise place.too_late()
    timings = {"read": read_ms, **answer.timings_ms, "total": (time.monotonic() - place.began) * 1000}
    state.telemetry.stages(model.manifest.name, timings)
    top = int(answer.probabilities.argmax())
    state.telemetry.answered(
        model.manifest.name,
        model.manifest.version,
        class_id=top,
        label=model.manifest.labels[top],
        probability=float(answer.probabilities[top]),
    )
    request.state.timings, request.state.answered_by = timings, _answered_by(model, answer)
    return answer, timings


def _answered_by(model: Predictor, answer: Answer) -> dict[str, str | int]:
    """For the log and the trace."""
    return {
        "model": model.manifest.name,
        "version": model.manifest.version,
        "engine": answer.engine.name,
        "precision": answer.engine.precision,
        "batch_size": answer.batch_size,
    }


def _held(request: Request) -> int:
    """The most of the file that is held in memory."""
    length = request.headers.get("content-length", "")
    return min(int(length), IN_MEMORY) if length.isdigit() and not is_url(request) else IN_MEMORY
