"""`/jobs`: long videos, looked at when there is time, and told in segments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from service.api.formats import TEXTS, Format, preferred, text_response
from service.api.intake import BODY, read_upload
from service.api.job_answers import (
    JobAnswer,
    JobHead,
    JobPage,
    JobResult,
    SegmentPage,
    all_told,
    job_answer,
    job_head,
    model_used,
    told,
)
from service.api.schemas import refusals, shown
from service.api.state import StateOf
from service.errors import DeadlineExceeded, JobConflict, TooLarge
from service.jobs.job import Job, State, Wish
from service.media.frames import Windows
from service.media.sniff import video_container

router = APIRouter(prefix="/jobs", tags=["jobs"])

# Long enough to see something happen, short enough to be looked at: as the clips of most data sets.
WINDOW_S = 4.0
_UPLOAD_S = 3600.0
_HEAD_BYTES = 4096
_RESULT: dict[str, Any] = {"content": {**TEXTS[200]["content"]}, "model": JobResult}


class Wishes:
    """The query parameters of a new job."""

    def __init__(
        self,
        *,
        model: Annotated[str | None, Query(description="NAME or NAME:VERSION; default: the first that fits")] = None,
        top_k: Annotated[
            int | None, Query(ge=0, description="Classes of each segment; 0: all; default: all of up to 20, else 5")
        ] = None,
        frames: Annotated[int | None, Query(ge=1, description="Frames to look at in each window")] = None,
        window_s: Annotated[float, Query(ge=0.04, le=86_400, description="Seconds of a window")] = WINDOW_S,
        stride_s: Annotated[
            float | None, Query(ge=0.01, le=86_400, description="From one window to the next; default: window_s")
        ] = None,
        merge: Annotated[
            bool, Query(description="Neighbouring windows that say the same become one segment; false: every window")
        ] = True,
    ) -> None:
        self.model, self.top_k, self.frames = model, top_k, frames
        self.window_s, self.stride_s, self.merge = window_s, stride_s, merge


@router.post(
    "",
    status_code=202,
    openapi_extra=BODY,
    responses=refusals(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504, 507),
)
async def post(request: Request, response: Response, wishes: Annotated[Wishes, Depends()], state: StateOf) -> JobAnswer:
    """Take in a video, at most MAREY_MAX_JOB_BYTES; it is looked at window by window, when there is time.

    The answer's Location is where to ask about it. It outlives restarts of the service.
    """
    state.refuse_unless_ready()
    state.desk.refuse_unless_room()
    most = state.settings.max_job_bytes
    with state.admission.enter(priority="bulk"):
        async with state.registry.lease(wishes.model, task="video") as model:
            plan = model.plan(frames=wishes.frames, window_s=wishes.window_s, stride_s=wishes.stride_s)
            manifest = model.manifest
        assert isinstance(plan, Windows)
        wish = Wish(
            model=manifest.name,
            version=manifest.version,
            windows=plan,
            merge=wishes.merge,
            top_k=wishes.top_k,
            classes=shown(manifest.labels, wishes.top_k),
            request_id=request.state.request_id,
        )
        try:
            async with asyncio.timeout(_UPLOAD_S):
                upload = await read_upload(request, state, max_bytes=most)
        except TooLarge:
            raise TooLarge(
                f"the file has more than the {most} bytes allowed of a job; cut it, or raise MAREY_MAX_JOB_BYTES"
            ) from None
        except TimeoutError:
            raise DeadlineExceeded(f"the upload took longer than {_UPLOAD_S:g} s; send a smaller file") from None
        with upload:
            video_container(await asyncio.to_thread(_head, upload.source))
            job = await state.desk.take_in(upload, owner=request.state.client, wish=wish)
    response.headers["Location"] = f"/jobs/{job.id}"
    response.headers["Retry-After"] = str(_poll_s(job))
    return _answer(job, state)


@router.get("", responses=refusals(401, 403, 404, 422, 429, 500, 503))
async def listed(
    request: Request,
    state: StateOf,
    *,
    of: Annotated[State | None, Query(alias="state", description="Only jobs in this state")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[int | None, Query(ge=0, lt=2**63, description="From `next` of the page before")] = None,
) -> JobPage:
    """Your jobs, the newest first; everybody's for an admin."""
    state.desk.refuse_unless_open()
    found = await state.desk.store.page(owner=_owner(request), state=of, before=cursor, limit=limit + 1)
    page = found[:limit]
    following = None
    if len(found) > limit:
        following = f"/jobs?limit={limit}&cursor={page[-1].number}" + (f"&state={of}" if of else "")
    return JobPage(jobs=[_answer(job, state) for job in page], next=following)


@router.get("/{job_id}", responses=refusals(401, 403, 404, 429, 500, 503))
async def one(job_id: str, request: Request, response: Response, state: StateOf) -> JobAnswer:
    """How a job stands; Retry-After says when to ask again."""
    job = await _job(job_id, request, state)
    if not job.ended:
        response.headers["Retry-After"] = str(_poll_s(job))
    return _answer(job, state)


@router.get("/{job_id}/segments", responses=refusals(401, 403, 404, 422, 429, 500, 503))
async def segments(
    job_id: str,
    request: Request,
    state: StateOf,
    *,
    offset: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> SegmentPage:
    """What was found, a page at a time; while the job runs, what was found so far."""
    job = await _job(job_id, request, state)
    subject = await state.desk.store.subject(job.number)
    found = await state.desk.store.segments(job.number, offset=offset, limit=limit) if subject is not None else []
    after = offset + len(found)
    return SegmentPage(
        job=job.id,
        state=job.state,
        offset=offset,
        total=job.segments,
        complete=job.ended,
        segments=[told(segment, subject.labels) for segment in found] if subject is not None else [],
        next=f"/jobs/{job.id}/segments?offset={after}&limit={limit}" if after < job.segments else None,
    )


@router.get(
    "/{job_id}/result",
    response_model=None,
    responses={200: _RESULT, **refusals(401, 403, 404, 409, 422, 429, 500, 503)},
)
async def result(
    job_id: str,
    request: Request,
    state: StateOf,
    *,
    form: Annotated[
        Format | None, Query(alias="format", description="vtt for a player, csv for a spreadsheet; default: by Accept")
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> StreamingResponse:
    """All that was found, once the job is done: as JSON, WebVTT or CSV."""
    form = form or preferred(accept)
    job, store = await _job(job_id, request, state), state.desk.store
    if job.state != "done":
        instead = "its error says why" if job.state == "failed" else "what it has found so far is under segments"
        raise JobConflict(f"the job is {job.state}, and only one that is done has a result; {instead}")
    subject, outcome = await store.subject(job.number), await store.outcome(job.number)
    assert subject is not None
    found = all_told(store, job, subject.labels)
    name = f'inline; filename="{job.id}.{form}"'
    if form == "json":
        head = job_head(job, subject=subject, outcome=outcome)
        response = StreamingResponse(_json(head, found), media_type="application/json")
    else:
        response = text_response(
            found,
            form=form,
            model=model_used(job, subject),
            multi_label=subject.multi_label,
            every=job.wish.top_k is not None,
        )
    response.headers["Content-Disposition"] = name
    return response


@router.delete(
    "/{job_id}",
    response_model=JobAnswer,
    responses={204: {"description": "Removed."}, **refusals(401, 403, 404, 429, 500, 503)},
)
async def end(job_id: str, request: Request, state: StateOf) -> JobAnswer | Response:
    """Cancel a job that waits or runs: 200, and what it found can still be read. Remove one that has ended: 204."""
    job = await state.desk.end(job_id, owner=_owner(request))
    return _answer(job, state) if job is not None else Response(status_code=204)


async def _job(job_id: str, request: Request, state: StateOf) -> Job:
    state.desk.refuse_unless_open()
    return await state.desk.store.get(job_id, owner=_owner(request))


def _answer(job: Job, state: StateOf) -> JobAnswer:
    return job_answer(job, served=state.registry.answering("video"))


def _owner(request: Request) -> str | None:
    """Whose jobs the client may see; None: everybody's."""
    return None if request.state.admin else request.state.client


def _poll_s(job: Job) -> int:
    """When to ask again: soon of a job that began a moment ago or will end in one, else later."""
    return 2 if job.looked_s < 600 or job.progress > 0.9 else 10


def _head(source: bytes | Path) -> bytes:
    if isinstance(source, bytes):
        return source[:_HEAD_BYTES]
    with source.open("rb") as file:
        return file.read(_HEAD_BYTES)


async def _json(head: JobHead, segments: AsyncIterator[Any]) -> AsyncIterator[str]:
    """`JobResult` in pieces: a long video's would not fit in memory beside everybody else's."""
    yield head.model_dump_json(exclude_none=True)[:-1] + ',"segments":['
    first = True
    async for segment in segments:
        yield ("" if first else ",") + segment.model_dump_json()
        first = False
    yield "]}"
