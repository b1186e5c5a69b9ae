"""The JSON of jobs, as `/openapi.json` shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime

from pydantic import BaseModel, Field

from service.api.schemas import ModelUsed, Prediction, Problem, Segment, Video, seen, top
from service.errors import UnknownJob
from service.jobs.job import Job, Outcome, State, Subject, Told
from service.jobs.store import Store

_AT_ONCE = 500


class ModelAsked(BaseModel):
    name: str
    version: str


class JobAnswer(BaseModel):
    """One job as it stands."""

    id: str
    state: State
    progress: float = Field(ge=0, le=1, description="By the length that the file's header claims; 1 only when done.")
    looked_s: float = Field(description="Seconds of the video that were looked at so far.")
    model: ModelAsked
    window_s: float
    stride_s: float = Field(description="As asked for; the result says what it was rounded to.")
    frames: int
    top_k: int | None
    merge: bool
    bytes: int
    created: datetime
    started: datetime | None
    finished: datetime | None
    segments: int = Field(description="Found so far; they can be read while the job runs.")
    error: Problem | None = Field(description="Why it failed.")
    waiting_for: str | None = Field(description="What a queued job needs before it can run; null: only its turn.")
    links: dict[str, str]


class JobPage(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobAnswer]
    next: str | None = Field(description="Where the next page is; null on the last.")


class SegmentPage(BaseModel):
    """Segments in time's order; `complete` once no more will follow."""

    job: str
    state: State
    offset: int
    total: int = Field(description="Found so far.")
    complete: bool
    segments: list[Segment]
    next: str | None = Field(description="Where the next page is; null where there is none yet.")


class WindowsUsed(BaseModel):
    strategy: str
    frames_per_window: int
    windows: int
    window_s: float
    stride_s: float = Field(description="As used: rounded to the spacing of the frames.")


class JobHead(BaseModel):
    """All of a result but its segments."""

    job: str
    request_id: str = Field(description="Of the request that made the job.")
    model: ModelUsed
    video: Video
    sampling: WindowsUsed
    predictions: list[Prediction] = Field(description="The mean over all windows.")
    warnings: list[str]


class JobResult(JobHead):
    """What `POST /classify/video` would have answered for the same windows."""

    segments: list[Segment]


def job_answer(job: Job, *, served: Collection[str]) -> JobAnswer:
    """`served`: the models that jobs can be run with now, each as `NAME:VERSION`."""
    wish, fault, path = job.wish, job.fault, f"/jobs/{job.id}"
    error = None
    if fault is not None:
        error = Problem(
            type=f"urn:marey:problem:{fault.code}",
            title=fault.title,
            status=fault.status,
            detail=fault.detail,
            code=fault.code,
            request_id=wish.request_id,
        )
    waiting_for = None
    if job.state == "queued" and wish.name not in served:
        waiting_for = f"model {wish.name} is not served; it runs once that is loaded"
    return JobAnswer(
        id=job.id,
        state=job.state,
        progress=round(job.progress, 4),
        looked_s=round(job.looked_s, 3),
        model=ModelAsked(name=wish.model, version=wish.version),
        window_s=wish.windows.window_s,
        stride_s=wish.windows.stride_s,
        frames=wish.windows.frames,
        top_k=wish.top_k,
        merge=wish.merge,
        bytes=job.bytes,
        created=_moment(job.created),
        started=None if job.started is None else _moment(job.started),
        finished=None if job.finished is None else _moment(job.finished),
        segments=job.segments,
        error=error,
        waiting_for=waiting_for,
        links={"self": path, "segments": f"{path}/segments", "result": f"{path}/result"},
    )


def job_head(job: Job, *, subject: Subject, outcome: Outcome) -> JobHead:
    return JobHead(
        job=job.id,
        request_id=job.wish.request_id,
        model=model_used(job, subject),
        video=seen(outcome.video),
        sampling=WindowsUsed(
            strategy="windows",
            frames_per_window=job.wish.windows.frames,
            windows=outcome.windows,
            window_s=job.wish.windows.window_s,
            stride_s=outcome.stride_s,
        ),
        predictions=top(outcome.probabilities, subject.labels, job.wish.top_k),
        warnings=list(outcome.warnings),
    )


def model_used(job: Job, subject: Subject) -> ModelUsed:
    return ModelUsed(
        name=job.wish.model,
        version=job.wish.version,
        engine=subject.engine,
        head_engine=subject.head_engine,
        precision=subject.precision,
        float_precision=subject.float_precision,
        device=subject.device,
    )


def told(segment: Told, labels: tuple[str, ...]) -> Segment:
    return Segment(
        start_s=round(segment.start_s, 4),
        end_s=round(segment.end_s, 4),
        windows=segment.windows,
        predictions=[
            Prediction(class_id=k, label=labels[k], probability=round(probability, 6))
            for k, probability in zip(segment.class_ids, segment.probabilities, strict=True)
        ],
    )


async def all_told(store: Store, job: Job, labels: tuple[str, ...]) -> AsyncIterator[Segment]:
    """Every segment of the job, in time's order, read a few hundred at a time. Raises UnknownJob if it is removed meanwhile."""
    offset = 0
    while found := await store.segments(job.number, offset=offset, limit=_AT_ONCE):
        for segment in found:
            yield told(segment, labels)
        offset += len(found)
    if offset < job.segments:  # half a file must not look like a whole one
        raise UnknownJob(f"the job {job.id} was removed while its result was sent")


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), tz=UTC)
