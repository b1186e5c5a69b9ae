"""Every limit on what may be sent, and how it is refused: one list, from the places that enforce it."""

from __future__ import annotations

from pydantic import BaseModel, Field

from service.api.schemas import MAX_ROWS
from service.api.state import State
from service.errors import (
    DeadlineExceeded,
    DecodeLimit,
    InvalidParameter,
    MareyError,
    Overloaded,
    RateLimited,
    SpoolFull,
    TooLarge,
    TooLong,
    TooManyPixels,
)
from service.predictor import MAX_WINDOW_FRAMES

_LATER = "send it again after Retry-After"
_CUT = "cut the video into parts"

# Unit, what it is counted over, the refusal, and what a client can do about it.
_Told = tuple[str, str, type[MareyError], str]

_SET: dict[str, _Told] = {
    "max_upload_bytes": ("bytes", "upload", TooLarge, "send a smaller file, or POST /jobs"),
    "max_pixels": ("pixels", "picture", TooManyPixels, "scale it down"),
    "max_duration_s": ("seconds", "video", TooLong, f"{_CUT}, or POST /jobs"),
    "decode_timeout_s": ("seconds", "decode", DecodeLimit, "send a shorter or smaller file"),
    "timeout_ms": ("milliseconds", "request", DeadlineExceeded, "ask for more by timeout_ms, or send a smaller file"),
    "max_requests": ("requests", "service", Overloaded, _LATER),
    "max_queued_rows": ("frames and clips", "service", Overloaded, _LATER),
    "max_queued_bytes": ("bytes of memory", "service", Overloaded, _LATER),
    "queue_ms": ("milliseconds", "interactive request", Overloaded, f"{_LATER}, or ask with priority=bulk"),
    "max_spool_bytes": ("bytes on disk", "service", SpoolFull, f"{_LATER}, or send a smaller file"),
    "max_streams": ("streams", "service", Overloaded, "connect again later"),
    "rate_limit": ("requests a second", "key or address", RateLimited, _LATER),
    "max_jobs": ("jobs", "service", Overloaded, f"{_LATER}, or cancel some"),
    "max_job_bytes": ("bytes", "job", TooLarge, _CUT),
    "max_job_duration_s": ("seconds", "job", TooLong, _CUT),
}


class Limit(BaseModel):
    name: str
    value: int | float | None = Field(description="The largest that is taken; null: none is set.")
    unit: str
    per: str = Field(description="What it is counted over: an upload, a request, a job, the service …")
    setting: str | None = Field(default=None, description="The environment variable that sets it; null: it is fixed.")
    status: int = Field(description="Of the refusal.")
    code: str = Field(description="Of the refusal, as its body names it.")
    remedy: str = Field(description="What a client can do about it.")


class Limits(BaseModel):
    limits: list[Limit]


def limits_of(state: State) -> Limits:
    set_ = [
        _limit(name, getattr(state.settings, name), told, setting=f"MAREY_{name.upper()}")
        for name, told in _SET.items()
    ]
    decoders = state.registry.decoders
    slower = f"{_CUT}, or lower its frame rate"
    finer = "ask for longer windows or fewer frames in each, or POST /jobs"
    fixed = [
        _limit("max_frames", decoders.limits.max_decoded_frames, ("frames", "video", TooLong, slower)),
        _limit("max_job_frames", state.desk.limits.max_decoded_frames, ("frames", "job", TooLong, slower)),
        _limit("max_grid_frames", decoders.limits.max_grid_frames, ("frames", "video in windows", TooLong, finer)),
        _limit("max_window_frames", MAX_WINDOW_FRAMES, ("frames", "all windows", InvalidParameter, finer)),
        _limit("max_answer_rows", MAX_ROWS, ("rows", "answer", InvalidParameter, "lower top_k, or raise stride_s")),
        _limit("decode_memory", decoders.memory_bytes, ("bytes of memory", "decode", DecodeLimit, "scale it down")),
    ]
    return Limits(limits=set_ + fixed)


def _limit(name: str, value: float | None, told: _Told, *, setting: str | None = None) -> Limit:
    unit, per, error, remedy = told
    status, code = error.status, error.code
    return Limit(name=name, value=value, unit=unit, per=per, setting=setting, status=status, code=code, remedy=remedy)
