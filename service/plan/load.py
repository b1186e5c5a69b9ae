"""What is asked for, as jobs a second and what each costs: a clip that is uploaded, or a frame of a camera that is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.errors import InvalidParameter
from service.live import WINDOW_S
from service.plan.costs import Decoding, Video, best, clip_s, decoding
from service.plan.figures import Figures, Unit

_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Cameras:
    """`count` live streams, day and night; the window rolls over `frames` frames in `window_s`, with an answer every `stride_s`.

    `frames` None: the model's; `stride_s` None: an answer for each frame of the grid.
    """

    count: int
    video: Video
    frames: int | None = None
    window_s: float = WINDOW_S
    stride_s: float | None = None
    peak: float = 1.0


@dataclass(frozen=True, slots=True)
class Uploads:
    """Clips of `clip_s` seconds, `per_day` of them; in the busiest hour `peak` times the day's mean."""

    per_day: float
    clip_s: float
    video: Video
    frames: int | None = None
    peak: float = 3.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Jobs at the peak, and what one job costs. `decode_s`, `service_s`: core-seconds; `engine_s`: seconds of `unit`.

    `bytes_in` come over the network for each job; `bytes_across` go to the networks where those are in other processes.
    `held`: what stays in memory whether or not a job runs, such as a stream's decoder, of `held_bytes` each; a job that
    runs or waits holds `job_bytes`. `mean_per_s`: over the day. `frames_in`, `frames_seen`: decoded, and looked at.
    """

    job: Literal["clip", "frame"]
    per_s: float
    mean_per_s: float
    decode_s: float
    service_s: float
    engine_s: float
    unit: Unit
    bytes_in: float
    bytes_across: float
    job_bytes: float
    held: int
    held_bytes: float
    decoding: Decoding
    frames_in: float
    frames_seen: float

    @property
    def core_s(self) -> float:
        """Of processors: with the networks where those run on them, and else with the one thread that waits for the GPU."""
        return self.decode_s + self.service_s + self.engine_s


def of_cameras(figures: Figures, cameras: Cameras) -> Demand:
    """A job is a frame of the grid: it is looked at, encoded once, and the head runs anew. Raises MareyError."""
    frames = _checked(figures, cameras.frames, cameras.video, peak=cameras.peak)
    _positive("cameras", cameras.count)
    _positive("window-s", cameras.window_s)
    spacing_s = cameras.window_s / frames
    stride_s = spacing_s if cameras.stride_s is None else cameras.stride_s
    _positive("stride-s", stride_s)
    costs, networks, served = decoding(figures, cameras.video, live=True), figures.networks, figures.served
    assert served.answer is not None
    # A frame is looked at once, however many points of the grid it stands for.
    seen = min(cameras.video.fps, 1 / spacing_s)
    answers = min(seen, 1 / stride_s) / seen
    threads = networks.threads
    entry, head = best(networks.entry, threads), best(networks.head, threads) if networks.head else None
    entry_s = entry.seconds.median / entry.rows * (answers if networks.kind == "clip" else 1)
    head_s = 0.0 if head is None else head.seconds.median / head.rows * answers
    pixels = cameras.video.pixels
    frames_in = cameras.video.fps / seen
    mean = cameras.count * seen
    return Demand(
        job="frame",
        per_s=mean * cameras.peak,
        mean_per_s=mean,
        decode_s=costs.frame.at(pixels) * frames_in + costs.kept.at(pixels),
        service_s=served.answer.median,
        engine_s=entry_s + head_s,
        unit=networks.unit,
        bytes_in=costs.bytes_per_s / seen,
        bytes_across=networks.frame_bytes * (frames * answers if networks.kind == "clip" else 1),
        job_bytes=networks.frame_bytes,
        held=round(cameras.count * cameras.peak),
        held_bytes=served.stream_bytes or 0,
        decoding=costs,
        frames_in=frames_in,
        frames_seen=1,
    )


def of_uploads(figures: Figures, uploads: Uploads) -> Demand:
    """A job is a clip: decoded whole, `frames` of it looked at. Raises MareyError."""
    frames = _checked(figures, uploads.frames, uploads.video, peak=uploads.peak)
    _positive("uploads-per-day", uploads.per_day)
    _positive("clip-s", uploads.clip_s)
    costs, networks = decoding(figures, uploads.video, live=False), figures.networks
    frames_in = max(1.0, uploads.clip_s * uploads.video.fps)
    seen = frames if networks.kind == "clip" else min(frames, round(frames_in))
    pixels, size = uploads.video.pixels, costs.bytes_per_s * uploads.clip_s
    mean = uploads.per_day / _DAY_S
    return Demand(
        job="clip",
        per_s=mean * uploads.peak,
        mean_per_s=mean,
        decode_s=costs.frame.at(pixels) * frames_in + costs.kept.at(pixels) * seen,
        service_s=figures.served.request.median,
        engine_s=clip_s(networks, seen),
        unit=networks.unit,
        bytes_in=size,
        bytes_across=seen * networks.frame_bytes,
        job_bytes=size + seen * networks.frame_bytes,
        held=0,
        held_bytes=0,
        decoding=costs,
        frames_in=frames_in,
        frames_seen=seen,
    )


def _checked(figures: Figures, frames: int | None, video: Video, *, peak: float) -> int:
    for name, value in (("size", video.pixels), ("fps", video.fps), ("mbit", video.mbit or 1.0)):
        _positive(name, value)
    if peak < 1:
        raise InvalidParameter(f"peak = {peak:g}: the busiest hour is not below the mean; give 1 or more")
    known, wanted = figures.networks, frames if frames is not None else figures.networks.frames
    _positive("frames", wanted)
    if known.kind == "clip" and wanted != known.frames:
        raise InvalidParameter(
            f"frames = {wanted}: this network of clips was measured with {known.frames}; leave it out"
        )
    return wanted


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise InvalidParameter(f"{name} = {value:g}: it has to be above 0; give a finite number above 0")
