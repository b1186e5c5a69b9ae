"""A video from bytes to the frames that a plan asks for, and what decoding found out about the file.

# Note [One pass, or two]
Which frames are wanted depends on how many there are and when they are shown, and only decoding tells. So both are first
guessed, from the frame count of an MP4's index or, elsewhere, from a count of packets; the frames that follow from the
guess are kept while all are decoded in order, and where the truth turns out otherwise, a second pass fetches what is
missing. Frames that nobody wants are decoded, for others are built on them, but never converted to pixels.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Input, Sampling
from service.errors import TooLong
from service.media.capture import DECODABLE, DEFAULT_FPS, Capture, Source, count_packets, no_frame
from service.media.frames import Clip, Decoded, VideoInfo, Windows
from service.media.limits import Limits
from service.media.preprocess import fit
from service.media.sample import Grid, by_fps, by_windows, grid_points, uniform
from service.media.sniff import video_container
from service.media.timeline import end_s, fps, oddities

Picture = NDArray[np.uint8]


@dataclass(slots=True)
class _Pass:
    """What one pass over the stream found. `times_s` start at 0; `kept` are frames at the network's size, by number."""

    times_s: list[float] = field(default_factory=list)
    kept: dict[int, Picture] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    untimed: int = 0
    preprocess_s: float = 0.0


def decode_video(source: bytes | Path, *, spec: Input, plan: Sampling | Windows, limits: Limits) -> Decoded:
    """`source` (bytes, or a file that is read, never handed to FFmpeg by name) → `[T, height, width, C]` as `spec` asks.

    Every frame is decoded, in order: counts, times and duration are what was found, not what the header claims. Memory
    does not grow with the video: only frames that the plan asks for are kept, at the network's size.

    Raises EmptyFile, UnsupportedMedia, UnsupportedCodec (named), TooManyPixels, TooLong, DecodeFailed, DecodeLimit.
    """
    started = time.perf_counter()
    with Source(source) as stream:
        container = video_container(stream.head())
        with Capture(stream, container=container) as capture:
            limits.check_pixels(width=capture.width, height=capture.height)
            expected = _expected_times(stream, capture, container=container, limits=limits)
            found = _run(capture, wanted=_guess(expected, plan=plan, limits=limits), spec=spec, limits=limits)
            codec, claimed, rotation = capture.codec, capture.claimed_frames, capture.rotation
        # Theora: OpenCV's wheels hand out one frame of it, a broken one.
        if not found.times_s or (codec not in DECODABLE and len(found.times_s) * 2 < len(expected)):
            raise no_frame(codec, container)
        truth = _resolve(found.times_s, plan=plan, limits=limits)
        missing = set(truth.indices) - found.kept.keys()
        if missing:
            with Capture(stream, container=container) as capture:
                again = _run(capture, wanted=missing, spec=spec, limits=limits, stop_after=max(missing))
            found.kept |= again.kept
            found.size = found.size or again.size
            found.preprocess_s += again.preprocess_s
    if found.size is None or set(truth.indices) - found.kept.keys():
        raise no_frame(codec, container)
    width, height = found.size
    info = VideoInfo(
        round(end_s(found.times_s), 6), fps(found.times_s), width, height, codec, len(found.times_s), rotation
    )
    clip = Clip(
        np.stack([found.kept[i] for i in truth.indices]),
        truth.indices,
        tuple(round(found.times_s[i], 6) for i in truth.indices),
        info,
        oddities(found.times_s, untimed=found.untimed, claimed=claimed),
        truth.windows,
        truth.stride_s if isinstance(plan, Windows) else None,
    )
    total = time.perf_counter() - started
    return Decoded(clip, (total - found.preprocess_s) * 1e3, found.preprocess_s * 1e3)


def _resolve(times_s: list[float], *, plan: Sampling | Windows, limits: Limits) -> Grid:
    """The plan's frames for frames shown at `times_s`; a sampling is a grid without windows."""
    end = end_s(times_s)
    if isinstance(plan, Windows):
        limits.check_grid(grid_points(end, plan=plan))
        return by_windows(times_s, plan=plan, duration_s=end)
    if plan.strategy == "fps":
        assert plan.fps is not None
        return Grid(by_fps(times_s, fps=plan.fps, max_frames=plan.max_frames, duration_s=end), (), 0.0)
    return Grid(uniform(len(times_s), plan.frames, short_clip=plan.short_clip), (), 0.0)


def _guess(expected_s: list[float], *, plan: Sampling | Windows, limits: Limits) -> set[int]:
    try:
        return set(_resolve(expected_s, plan=plan, limits=limits).indices) if expected_s else set()
    except TooLong:
        # Too many windows by what the header claims: only what is decoded may refuse.
        return set()


def _expected_times(stream: Source, capture: Capture, *, container: str, limits: Limits) -> list[float]:
    """A guess at every frame's time. Refuses what the packets, counted without decoding, show to be too long."""
    fps = capture.claimed_fps or DEFAULT_FPS
    count = capture.claimed_frames
    trusted = container == "MP4/MOV" and 0 < count <= limits.max_decoded_frames
    if not trusted or count / fps > limits.max_duration_s:
        packets = count_packets(stream, limits=limits)
        limits.check_duration(packets.end_s)
        count = packets.count
    limits.check_decoded(count)
    return [i / fps for i in range(count)]


def _run(
    capture: Capture, *, wanted: Collection[int], spec: Input, limits: Limits, stop_after: int | None = None
) -> _Pass:
    result = _Pass()
    for index, (time_s, timed) in enumerate(capture.play(limits=limits)):
        result.times_s.append(time_s)
        result.untimed += not timed
        if index in wanted:
            _keep(capture, index, result, spec=spec, limits=limits)
        if index == stop_after:
            break
    return result


def _keep(capture: Capture, index: int, result: _Pass, *, spec: Input, limits: Limits) -> None:
    picture = capture.retrieve()
    if picture is None:
        return
    begun = time.perf_counter()
    height, width = picture.shape[:2]
    limits.check_pixels(width=width, height=height)
    result.size = result.size or (width, height)
    result.kept[index] = fit(picture, spec=spec, order="bgr", pixel_aspect=capture.pixel_aspect)
    result.preprocess_s += time.perf_counter() - begun
