"""What one machine needs for one piece of work: the document between `marey plan measure` and `marey plan nodes`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.bench.machine import Machine
from service.errors import MareyError

# Of everything in a figures file that is a time: seconds of one core (`core`), or of one GPU (`gpu`).
Unit = Literal["core", "gpu"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measured(_Frozen):
    """The median of `n` values; `low` and `high`: their 10th and 90th percentile, by nearest rank."""

    median: float = Field(ge=0)
    low: float = Field(ge=0)
    high: float = Field(ge=0)
    n: int = Field(ge=1)

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """Of at least one value. What is below 0, a difference lost in the noise, counts as 0."""
        ordered = sorted(max(0.0, value) for value in values)
        count = len(ordered)
        low, high = ordered[max(0, -(-count // 10) - 1)], ordered[-(-9 * count // 10) - 1]
        return cls(median=_digits(median(ordered)), low=_digits(low), high=_digits(high), n=count)


class Footage(_Frozen):
    """Clips of one codec and about one size, and the processor time of the decode worker for them, in core-seconds.

    `frame`: each frame of the file; `kept`: on top of that each frame that is looked at (colour, resize); `live_frame` and
    `live_kept`: the same of an encoded stream, None where its container cannot be streamed. `preprocess_share`: of the
    worker's wall time for a clip as the service samples it. `clips` were measured; `width` and `height` are those of the
    clip in the middle, `fps`, `seconds` and `bytes_per_s` medians.
    """

    codec: str
    container: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    fps: float = Field(gt=0)
    clips: int = Field(ge=1)
    seconds: float = Field(gt=0)
    bytes_per_s: float = Field(gt=0)
    frame: Measured
    kept: Measured
    preprocess_share: float = Field(ge=0, le=1)
    live_frame: Measured | None = None
    live_kept: Measured | None = None

    @property
    def pixels(self) -> int:
        return self.width * self.height


class Rows(_Frozen):
    """One call of a network with `rows` rows: the processor time of all threads, or the time of the GPU, in seconds."""

    rows: int = Field(ge=1)
    seconds: Measured


class Networks(_Frozen):
    """What runs the networks. `entry`: the network that frames enter, by batch: rows are frames of an encoder, or clips of a clip network.

    `head`: by clips of `frames` frames each; empty for a clip network. `threads`: among which a call's core-seconds are spread.
    """

    engine: str
    precision: str
    float_precision: str
    device: str
    unit: Unit
    threads: int = Field(ge=1)
    kind: Literal["encoder", "clip"]
    frames: int = Field(ge=1)
    frame_bytes: int = Field(ge=1)
    entry: tuple[Rows, ...] = Field(min_length=1)
    head: tuple[Rows, ...]


class Served(_Frozen):
    """A real `marey serve` under a closed loop of `concurrency` uploads, by the processor time of its threads and processes.

    Core-seconds for each request: `request`, the event loop's thread; `device`, the other threads of the process, where
    networks run on processors; `workers`, the decoders. `answer`: the event loop's for each answer of a live stream.
    Bytes are proportional set sizes at the end. `per_s` was measured; `predicted_per_s` is what the other figures of this
    file say for the same clips on the cores that the load generator left (`cores`).
    """

    concurrency: int = Field(ge=1)
    request: Measured
    device: Measured
    workers: Measured
    answer: Measured | None
    process_bytes: int = Field(ge=0)
    worker_bytes: int = Field(ge=0)
    stream_bytes: int | None
    per_s: Measured
    cores: float = Field(gt=0)
    predicted_per_s: float = Field(gt=0)


class Figures(_Frozen):
    """Stable: fields may be added, none changes its meaning within a `schema_version`. Times are in seconds."""

    schema_version: Literal[1] = 1
    kind: Literal["plan figures"] = "plan figures"
    date: str
    command: str
    machine: Machine
    bundle: str
    footage: tuple[Footage, ...] = Field(min_length=1)
    networks: Networks
    served: Served

    @model_validator(mode="after")
    def _has_a_head(self) -> Self:
        if self.networks.kind == "encoder" and not self.networks.head:
            raise ValueError("networks.head is empty, and an encoder has a head; measure again")
        return self


def read_figures(path: Path) -> Figures:
    """Raises MareyError with the field that is not as it should be, and the remedy."""
    remedy = "make it with marey plan measure"
    try:
        return Figures.model_validate_json(path.read_bytes())
    except OSError as error:
        raise MareyError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        said = f"{where} = {str(fault['input'])[:60]}: {fault['msg']}" if where else fault["msg"]
        raise MareyError(f"{path} holds no figures of this version: {said}; {remedy}") from None


def _digits(value: float) -> float:
    """Four digits that mean something."""
    return float(f"{value:.4g}")
