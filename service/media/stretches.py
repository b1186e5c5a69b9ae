"""A video of any length as frames on one grid of windows, a few at a time: memory does not grow with its length.

# Note [Before it is known]
Whether a frame is wanted shows only when the next one has its time: a point of the grid belongs to the frame that was the last
to begin. By then the decoder has moved on. So the picture is taken of every frame whose successor may come after the next point
if it keeps nobody waiting much longer than any before it; where the times leap further than that, a second pass fetches it.
After a leap longer ones are reckoned with, so that even hostile times cost a pass for each time that the longest leap grows by
half, and videos of even times cost none.

# Note [A video shorter than a window]
It is one window of its own length, and that makes the grid. So nothing leaves before one window's length has been seen, and
where the video ends earlier, it is read again on its own grid.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Input
from service.errors import DecodeLimit
from service.media.capture import DECODABLE, DEFAULT_FPS, Capture, Source, count_packets, no_frame
from service.media.frames import Stretch, VideoInfo, Windows
from service.media.limits import Limits
from service.media.preprocess import fit
from service.media.sample import TICK_S, grid_points, points_before
from service.media.sniff import video_container
from service.media.timeline import end_s, fps, oddities

Picture = NDArray[np.uint8]

# Frames in a stretch at most: what an encoder takes at once.
MOST = 16
PATIENCE_S = 1.0
_LEAP = 1.5


def decode_stretches(
    source: bytes | Path, *, spec: Input, plan: Windows, limits: Limits, cpu_s: float, patience_s: float = PATIENCE_S
) -> Iterator[Stretch | None]:
    """The frames of `source` that `decode_video` finds for `plan`, at the network's size.

    After `patience_s` without a stretch comes what there is, or None as a sign of life.

    Raises what `decode_video` raises, some of it only after stretches have been given; DecodeLimit where it takes more than
    `cpu_s` seconds of processor time in all.
    """
    with Source(source) as stream:
        film = _Film(stream, video_container(stream.head()), spec, plan, limits)
        short = yield from _with_signs(film.play(plan.window_s / plan.frames), film, cpu_s, patience_s)
        if short:
            yield from _with_signs(film.play(end_s(film.times_s) / plan.frames, whole=True), film, cpu_s, patience_s)


def _with_signs(
    steps: Generator[Stretch | None, None, bool], film: _Film, cpu_s: float, patience_s: float
) -> Generator[Stretch | None, None, bool]:
    """`steps` come with each frame that is decoded: of those without a stretch, few are passed on."""
    began, last = time.process_time(), time.monotonic()
    while True:
        try:
            stretch = next(steps)
        except StopIteration as end:
            return bool(end.value)
        film.hurry = time.monotonic() - last > patience_s
        if stretch is None and not film.hurry:
            continue
        if time.process_time() - began > cpu_s:
            raise DecodeLimit(
                f"decoding took more than {cpu_s:g} s of processor time up to second {film.shown_s:.0f} of the video; "
                "scale it down, or cut it into parts"
            )
        yield stretch
        last = time.monotonic()


@dataclass(frozen=True, slots=True)
class _Frame:
    picture: Picture
    index: int
    time_s: float
    points: int


class _Film:
    """One video, on its way through; 8 bytes for each frame's time are all that it remembers of them."""

    def __init__(self, stream: Source, container: str, spec: Input, plan: Windows, limits: Limits) -> None:
        self.times_s = array("d")
        self.shown_s = 0.0
        self.hurry = False
        self._stream, self._container = stream, container
        self._spec, self._plan, self._limits = spec, plan, limits
        self._size: tuple[int, int] | None = None
        self._untimed = 0
        self._claimed_s = 0.0
        self._points = 0

    def play(self, spacing_s: float, *, whole: bool = False) -> Generator[Stretch | None, None, bool]:
        """All stretches, and a None for each frame. Ends with True, and none given, where the video is shorter than a window.

        `whole`: that is known, and `spacing_s` made for it.
        """
        self.times_s, self.shown_s, self._untimed, self._points = array("d"), 0.0, 0, 0
        held: list[_Frame] = []
        with Capture(self._stream, container=self._container) as capture:
            expected = self._measure(capture)
            for frame in self._on_grid(capture, spacing_s):
                if frame is not None:
                    held.append(frame)
                # One is kept back, so that the last stretch has a frame to go with what is known at the end.
                while len(held) > MOST and self._may_leave(whole):
                    yield self._stretch(held[:MOST])
                    held = held[MOST:]
                if self.hurry and len(held) > 1 and self._may_leave(whole):
                    yield self._stretch(held[:-1])
                    held = held[-1:]
                yield None
            codec, claimed, rotation = capture.codec, capture.claimed_frames, capture.rotation
            count = len(self.times_s)
            # Theora: OpenCV's wheels hand out one frame of it, a broken one.
            if not count or count * 2 < expected:
                raise no_frame(codec, self._container)
            end = end_s(self.times_s)
            if end < self._plan.window_s and not whole:
                return True
            held.extend((yield from self._rest(end)))
        if not held or self._size is None:
            raise no_frame(codec, self._container)
        while len(held) > MOST:
            yield self._stretch(held[:MOST])
            held = held[MOST:]
        info = VideoInfo(round(end, 6), fps(self.times_s), *self._size, codec, count, rotation)
        yield self._stretch(held, info, oddities(self.times_s, untimed=self._untimed, claimed=claimed))
        return False

    def _may_leave(self, whole: bool) -> bool:  # noqa: FBT001
        return whole or self.shown_s >= self._plan.window_s

    def _measure(self, capture: Capture) -> int:
        """Refuse by the header what need not be decoded to be refused. Returns how many frames there must be at least twice."""
        self._limits.check_pixels(width=capture.width, height=capture.height)
        self._claimed_s = capture.claimed_frames / (capture.claimed_fps or DEFAULT_FPS)
        if self._claimed_s <= self._limits.max_duration_s and capture.codec in DECODABLE:
            return 0
        packets = count_packets(self._stream, limits=self._limits)
        self._limits.check_duration(packets.end_s)
        self._limits.check_decoded(packets.count)
        return 0 if capture.codec in DECODABLE else packets.count

    def _on_grid(self, capture: Capture, spacing_s: float) -> Generator[_Frame | None, None, None]:
        """Each frame that a point belongs to, once the next one has come; a None for each that none does."""
        self._picture: Picture | None = None
        self._aspect = capture.pixel_aspect
        leap_s = 1.0 / (capture.claimed_fps or DEFAULT_FPS)
        for time_s, timed in capture.play(limits=self._limits):
            begins = max(self.shown_s, time_s)
            points = points_before(begins, spacing_s=spacing_s)
            if points > self._points:
                yield (yield from self._frame(points))
            leap_s = max(leap_s, begins - self.shown_s)
            self.times_s.append(time_s)
            self._untimed += not timed
            self.shown_s = begins
            # Note [Before it is known]
            likely = (self._points + 0.5) * spacing_s + TICK_S < begins + _LEAP * leap_s
            self._picture = capture.retrieve() if likely or len(self.times_s) == 1 else None
            yield None

    def _rest(self, end: float) -> Generator[None, None, list[_Frame]]:
        """The last frame, where points are left for it."""
        total = grid_points(end, plan=self._plan)
        return [(yield from self._frame(total))] if total > self._points else []

    def _frame(self, points: int) -> Generator[None, None, _Frame]:
        """The latest frame, which the points up to `points` belong to."""
        index = len(self.times_s) - 1
        picture = self._picture if self._picture is not None else (yield from self._fetch(index))
        height, width = picture.shape[:2]
        self._limits.check_pixels(width=width, height=height)
        self._size = self._size or (width, height)
        fitted = fit(picture, spec=self._spec, order="bgr", pixel_aspect=self._aspect)
        frame = _Frame(fitted, index, round(self.times_s[index], 6), points - self._points)
        self._points = points
        return frame

    def _fetch(self, index: int) -> Generator[None, None, Picture]:
        """The picture of a frame that the decoder has left behind, by decoding all before it once more."""
        with Capture(self._stream, container=self._container) as again:
            for number, _ in enumerate(again.play(limits=self._limits)):
                yield None
                if number == index:
                    picture = again.retrieve()
                    if picture is not None:
                        return picture
                    break
            raise no_frame(again.codec, self._container)

    def _stretch(self, frames: list[_Frame], info: VideoInfo | None = None, warnings: tuple[str, ...] = ()) -> Stretch:
        return Stretch(
            np.stack([frame.picture for frame in frames]),
            tuple(frame.index for frame in frames),
            tuple(frame.time_s for frame in frames),
            tuple(frame.points for frame in frames),
            round(self.shown_s, 6),
            self._claimed_s,
            info,
            warnings,
        )
