"""What is known of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.media.frames import VideoInfo, Windows
from service.segments import Opened, Segment

State = Literal["queued", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "done", "failed", "cancelled")
# Work is left to do in these; in the others the job has ended.
PENDING: tuple[State, ...] = ("queued", "running")


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for: `classes` is how many of them each segment tells."""

    model: str
    version: str
    windows: Windows
    merge: bool
    top_k: int | None
    classes: int
    request_id: str

    @property
    def name(self) -> str:
        return f"{self.model}:{self.version}"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a job failed: the parts of a problem (RFC 9457)."""

    code: str
    title: str
    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it stands. Times are seconds since 1970; `progress` is from 0 to 1, `looked_s` seconds of the video."""

    number: int
    id: str
    owner: str
    state: State
    wish: Wish
    bytes: int
    created: float
    started: float | None
    finished: float | None
    progress: float
    looked_s: float
    segments: int
    attempts: int
    fault: Fault | None

    @property
    def ended(self) -> bool:
        return self.state not in PENDING


@dataclass(frozen=True, slots=True)
class Subject:
    """What looks at the video. Work that was begun goes on only where this is the same as when it began."""

    engine: str
    head_engine: str | None
    precision: str
    float_precision: str
    device: str
    labels: tuple[str, ...]
    multi_label: bool
    artifacts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the work stands after the first `windows` windows: `opened` is the segment that the next one may prolong.

    `total` `[K]` float64: the sum of the probabilities of all windows; None before the first.
    """

    windows: int = 0
    opened: Opened | None = None
    total: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What the work has found since it was last written down."""

    segments: tuple[Segment, ...]
    checkpoint: Checkpoint
    progress: float
    looked_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found out about the whole video; `probabilities` `[K]` are the mean over all windows."""

    video: VideoInfo
    stride_s: float
    windows: int
    warnings: tuple[str, ...]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Told:
    """A segment as it is kept: of its classes only the likeliest, best first."""

    start_s: float
    end_s: float
    windows: int
    class_ids: tuple[int, ...]
    probabilities: tuple[float, ...]
