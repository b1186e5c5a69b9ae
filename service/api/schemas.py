"""The JSON of the answers, as `/openapi.json` shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from service import segments
from service.engine.base import EngineInfo
from service.errors import InvalidParameter
from service.media.frames import ImageInfo, VideoInfo
from service.predictor import Answer, Predictor

# Predictions of all segments, or of all positions, together: larger answers would hold up the event loop, and everybody else.
MAX_ROWS = 10_000


class ModelUsed(BaseModel):
    """What really ran: the engine, the precision and the device in use."""

    name: str
    version: str
    engine: str
    precision: str
    float_precision: str
    device: str
    head_engine: str | None = Field(default=None, description="What runs the head, where that is another than engine.")


class Prediction(BaseModel):
    class_id: int
    label: str
    probability: float


class Image(BaseModel):
    width: int
    height: int
    format: str
    orientation: int = Field(description="EXIF orientation of the file, 1 to 8; 1 is upright.")


class Video(BaseModel):
    duration_s: float
    fps: float
    width: int
    height: int
    codec: str
    frames_decoded: int
    rotation: int


class SampledFrame(BaseModel):
    index: int = Field(description="In decode order, from 0.")
    time_s: float
    weight: float | None = Field(default=None, description="Attention, only where the model has it.")


class SamplingUsed(BaseModel):
    strategy: str
    frames: list[SampledFrame]
    window_s: float | None = None
    stride_s: float | None = Field(default=None, description="As used: rounded to the spacing of the frames.")


class Segment(BaseModel):
    """What the video shows from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    windows: int = Field(description="How many windows it was merged from; predictions are the mean over them.")
    predictions: list[Prediction]


class Moment(BaseModel):
    """What a model with an answer for every step says at one sampled frame."""

    index: int = Field(description="Of the frame, in decode order, from 0.")
    time_s: float
    predictions: list[Prediction]


class Place(BaseModel):
    """What a model with an answer for every place says of one place in the picture."""

    position: int = Field(description="In the order of the model's output, from 0.")
    row: int | None = Field(
        default=None, description="In the grid, from the top, from 0; only where the model names its grid."
    )
    column: int | None = Field(default=None, description="In the grid, from the left, from 0.")
    predictions: list[Prediction]


class PlacesGrid(BaseModel):
    """The equal cells of the picture, after the model's resize rule, that `positions` answer for: `squash` shows all of it."""

    rows: int
    columns: int
    order: str = Field(
        description="How positions are numbered: raster, or boustrophedon (every second row from the right)."
    )
    background: str | None = Field(
        description="The label of a place that shows nothing of note; the others together are its heat."
    )
    resize: str = Field(description="How the picture became the one that the grid lies on: squash, crop or pad.")


class Classified(BaseModel):
    request_id: str
    model: ModelUsed
    predictions: list[Prediction]
    positions: list[Moment] | list[Place] | None = Field(
        default=None,
        description="Only where the model says when or where, and no windows were asked for: an entry for each sampled "
        "frame, or for each place in the picture, after the model's postprocessing.",
    )
    grid: PlacesGrid | None = Field(default=None, description="Where those places are, if the model names its grid.")
    warnings: list[str] = Field(description="What was odd in the file: gaps in its times, a header that lies …")
    timings_ms: dict[str, float]
    batch_size: int = Field(description="Frames that ran through the encoder, or the clip network, together.")


class ImageClassified(Classified):
    image: Image


class VideoClassified(Classified):
    video: Video
    sampling: SamplingUsed
    segments: list[Segment] | None = Field(
        default=None,
        description="Only where windows were asked for. Neighbouring windows with the same likeliest class (of a "
        "multi-label model: with the same classes above 0.5) are merged into one segment, and segments do not overlap: "
        "where windows do, the border lies midway between their centres. With merge=false, every window as it is.",
    )


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


def refusals(*statuses: int, model: type[Problem] = Problem) -> dict[int | str, dict[str, Any]]:
    """For the description of an operation: the statuses that it may refuse with, each a problem."""
    return {status: {"model": model, "content": {"application/problem+json": {}}} for status in statuses}


def top(probabilities: NDArray[np.float32], labels: tuple[str, ...], top_k: int | None) -> list[Prediction]:
    """The `top_k` likeliest of `probabilities` `[K]`, best first; 0: all; None: all of up to 20 classes, else 5."""
    count = shown(labels, top_k)
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [Prediction(class_id=int(k), label=labels[k], probability=round(float(probabilities[k]), 6)) for k in order]


def shown(labels: tuple[str, ...], top_k: int | None) -> int:
    """How many of `labels` an answer with `top_k` lists."""
    return len(labels) if top_k == 0 else min(len(labels), top_k or (len(labels) if len(labels) <= 20 else 5))


def used(model: Predictor, info: EngineInfo) -> ModelUsed:
    return ModelUsed(
        name=model.manifest.name,
        version=model.manifest.version,
        engine=info.name,
        precision=info.precision,
        float_precision=info.float_precision,
        device=info.device,
        head_engine=info.head_engine,
    )


def image_answer(
    answer: Answer, model: Predictor, *, top_k: int | None, request_id: str, timings: dict[str, float]
) -> ImageClassified:
    source = answer.clip.source
    assert isinstance(source, ImageInfo)
    image = Image(width=source.width, height=source.height, format=source.format, orientation=source.orientation)
    return ImageClassified(image=image, **_common(answer, model, top_k, request_id, timings))


def video_answer(
    answer: Answer,
    model: Predictor,
    *,
    strategy: str,
    window_s: float | None,
    merge: bool,
    top_k: int | None,
    request_id: str,
    timings: dict[str, float],
) -> VideoClassified:
    clip = answer.clip
    assert isinstance(clip.source, VideoInfo)
    found = None if answer.windowed is None else _segments(answer, model, merge=merge, top_k=top_k)
    return VideoClassified(
        video=seen(clip.source),
        sampling=SamplingUsed(
            strategy=strategy, frames=list(_frames(answer)), window_s=window_s, stride_s=clip.stride_s
        ),
        segments=found,
        **_common(answer, model, top_k, request_id, timings),
    )


def seen(source: VideoInfo) -> Video:
    return Video(
        duration_s=round(source.duration_s, 4),
        fps=round(source.fps, 4),
        width=source.width,
        height=source.height,
        codec=source.codec,
        frames_decoded=source.frames_decoded,
        rotation=source.rotation,
    )


def segment(found: segments.Segment, labels: tuple[str, ...], top_k: int | None) -> Segment:
    return Segment(
        start_s=round(found.start_s, 4),
        end_s=round(found.end_s, 4),
        windows=found.windows,
        predictions=top(found.probabilities, labels, top_k),
    )


def _segments(answer: Answer, model: Predictor, *, merge: bool, top_k: int | None) -> list[Segment]:
    """Raises InvalidParameter where they are too many for one answer."""
    assert answer.windowed is not None
    windows = [
        segments.Judged(window.start_s, window.end_s, row)
        for window, row in zip(answer.clip.windows, answer.windowed, strict=True)
    ]
    found = segments.merged(windows, multi_label=model.manifest.network.multi_label, merge=merge)
    labels = model.manifest.labels
    count = shown(labels, top_k)
    if len(found) * count > MAX_ROWS:
        raise InvalidParameter(
            f"{len(found)} segments of {count} classes are {len(found) * count} rows, {MAX_ROWS} are allowed in one "
            "answer; lower top_k, raise stride_s, or post the video to /jobs"
        )
    return [segment(each, labels, top_k) for each in found]


def _frames(answer: Answer) -> Iterator[SampledFrame]:
    for position, (index, time_s) in enumerate(zip(answer.clip.indices, answer.clip.times_s, strict=True)):
        weight = None if answer.attention is None else round(float(answer.attention[position]), 6)
        yield SampledFrame(index=index, time_s=round(time_s, 4), weight=weight)


def _positions(answer: Answer, model: Predictor, top_k: int | None) -> list[Moment] | list[Place]:
    """One entry for each row of `answer.positions`; where no `top_k` was asked for, of as many classes as there is room for."""
    rows, clip, labels = answer.positions, answer.clip, model.manifest.labels
    assert rows is not None
    room, count = MAX_ROWS // len(rows), shown(labels, top_k)
    if count > room and top_k is not None:
        raise InvalidParameter(
            f"{len(rows)} positions of {count} classes are {len(rows) * count} rows, {MAX_ROWS} are allowed in one answer; "
            f"lower top_k to {room}"
        )
    found = [top(row, labels, min(count, room)) for row in rows]
    if not answer.positions_are_frames:
        grid = model.manifest.network.grid
        cells = grid.cells if grid else [(None, None)] * len(found)
        return [
            Place(position=number, row=row, column=column, predictions=predictions)
            for number, ((row, column), predictions) in enumerate(zip(cells, found, strict=True))
        ]
    return [
        Moment(index=index, time_s=round(time_s, 4), predictions=predictions)
        for index, time_s, predictions in zip(clip.indices, clip.times_s, found, strict=True)
    ]


def _grid(model: Predictor) -> PlacesGrid | None:
    grid = model.manifest.network.grid
    if grid is None:
        return None
    return PlacesGrid(**grid.model_dump(), resize=model.manifest.input.resize.rule)


def _common(
    answer: Answer, model: Predictor, top_k: int | None, request_id: str, timings: dict[str, float]
) -> dict[str, Any]:
    warnings, positions = list(answer.clip.warnings), None
    if answer.positions is not None and len(answer.positions) > MAX_ROWS:
        warnings.append(
            f"its {len(answer.positions)} positions are left out: {MAX_ROWS} rows are allowed in one answer"
        )
    elif answer.positions is not None:
        positions = _positions(answer, model, top_k)
    return {
        "request_id": request_id,
        "model": used(model, answer.engine),
        "predictions": top(answer.probabilities, model.manifest.labels, top_k),
        "positions": positions,
        "grid": _grid(model) if positions is not None else None,
        "warnings": warnings,
        "timings_ms": {stage: round(milliseconds, 3) for stage, milliseconds in timings.items()},
        "batch_size": answer.batch_size,
    }
