"""From clips that were measured to one that was not: core-seconds of a frame by its pixels, seconds of the engine by its batch.

# Note [A line through the sizes]
Decoding a frame costs something whatever its size, and something for each pixel. The line `fixed + per_pixel · pixels` has
the least sum of squared relative errors over the measured groups of one codec, neither part below 0; with one size it is
proportional. Bitrate and content matter as well: `worst` says how far the line is from a measured group, and the report says where a
size lies outside of what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.engine.buckets import buckets_for
from service.errors import InvalidParameter, MareyError
from service.plan.figures import Figures, Footage, Networks, Rows
from service.waiting import BATCH_S

# Of the line from a measured group; nearer than that they lie within each other's spread.
_FAR = 0.1


@dataclass(frozen=True, slots=True)
class Line:
    """`fixed` seconds and `per_pixel` for each pixel; `worst`: largest relative error on a measured point."""

    fixed: float
    per_pixel: float
    worst: float

    def at(self, pixels: float) -> float:
        return self.fixed + self.per_pixel * pixels

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """(pixels, seconds), at least one. Those of 0 seconds, which no relative error is defined for, are left out."""
        points = [(pixels, seconds) for pixels, seconds in points if seconds > 0]
        if not points:
            return cls(0.0, 0.0, 0.0)
        # Least squares of fixed·u + per_pixel·v = 1, with u = 1/seconds and v = pixels/seconds.
        u, v = [1 / s for _, s in points], [p / s for p, s in points]
        uu, uv, vv = (sum(a * b for a, b in zip(*pair, strict=True)) for pair in ((u, u), (u, v), (v, v)))
        determinant = uu * vv - uv * uv
        fixed, slope = 0.0, sum(v) / vv
        if len({pixels for pixels, _ in points}) > 1:
            both = (sum(u) * vv - sum(v) * uv) / determinant, (sum(v) * uu - sum(u) * uv) / determinant
            if min(both) >= 0:
                fixed, slope = both
            elif both[1] < 0:
                fixed, slope = sum(u) / uu, 0.0
        worst = max(abs(fixed + slope * pixels - seconds) / seconds for pixels, seconds in points)
        return cls(fixed, slope, worst)


@dataclass(frozen=True, slots=True)
class Video:
    """What comes in: H.264 or another codec of the figures, its size and frames a second; `mbit` a second, None: as measured clips of near size."""

    width: int
    height: int
    fps: float
    codec: str
    mbit: float | None = None

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Decoding:
    """Core-seconds of each frame, and on top of it of each that is looked at; `notes`: where the figures are stretched."""

    frame: Line
    kept: Line
    bytes_per_s: float
    notes: tuple[str, ...]


def decoding(figures: Figures, video: Video, *, live: bool) -> Decoding:
    """Raises MareyError where the figures hold no clip of this codec, or for `live` none that can be streamed."""
    groups = [each for each in figures.footage if each.codec == video.codec]
    if not groups:
        held = ", ".join(sorted({each.codec for each in figures.footage}))
        raise InvalidParameter(f"codec = {video.codec!r}: the figures are of {held}; choose one, or measure such clips")
    if live:
        groups = [each for each in groups if each.live_frame is not None and each.live_kept is not None]
        if not groups or figures.served.answer is None:
            raise MareyError(
                "the figures hold no stream: measure with a clip in MPEG-TS or Matroska/WebM as well, such as one of "
                "ffmpeg -i CLIP -c copy -f mpegts CLIP.ts"
            )
    frame = Line.through([(each.pixels, _of(each, "frame", live=live)) for each in groups])
    kept = Line.through([(each.pixels, _of(each, "kept", live=live)) for each in groups])
    return Decoding(frame, kept, _bytes_per_s(groups, video), tuple(_notes(groups, video, frame)))


def _of(footage: Footage, what: str, *, live: bool) -> float:
    found = getattr(footage, f"live_{what}" if live else what)
    return float(found.median)


def _bytes_per_s(groups: Sequence[Footage], video: Video) -> float:
    if video.mbit is not None:
        return video.mbit * 1e6 / 8
    near = min(groups, key=lambda each: abs(each.pixels * each.fps - video.pixels * video.fps))
    return near.bytes_per_s * (video.pixels * video.fps) / (near.pixels * near.fps)


def _notes(groups: Sequence[Footage], video: Video, frame: Line) -> list[str]:
    least, most = min(each.pixels for each in groups), max(each.pixels for each in groups)
    notes = []
    if not least <= video.pixels <= most:
        notes.append(
            f"{video.width}×{video.height} lies outside of what was measured ({least:,} to {most:,} pixels): measure such clips"
        )
    if frame.worst > _FAR:
        notes.append(f"what a frame costs by its size is up to {frame.worst:.0%} off what was measured")
    return notes


def clip_s(networks: Networks, frames: int) -> float:
    """Seconds of the engine's unit for one uploaded clip of `frames`: cut into batches as the service cuts it, then the head."""
    if networks.kind == "clip":
        return _least(networks.entry, 1).seconds.median
    largest = max(each.rows for each in networks.entry)
    parts = [bucket for _, _, bucket in buckets_for(frames, largest=largest)]
    return sum(_least(networks.entry, rows).seconds.median for rows in parts) + _least(networks.head, 1).seconds.median


def best(batches: Sequence[Rows], threads: int) -> Rows:
    """The batch that is cheapest by the row among those that the service lets grow: no longer than `BATCH_S`, or the smallest."""
    smallest = min(batches, key=lambda each: each.rows)
    allowed = [each for each in batches if each.seconds.median <= BATCH_S * threads] or [smallest]
    return min(allowed, key=lambda each: each.seconds.median / each.rows)


def _least(batches: Sequence[Rows], rows: int) -> Rows:
    """The smallest measured batch that holds `rows`; the largest where none does."""
    above = [each for each in batches if each.rows >= rows]
    return min(above, key=lambda each: each.rows) if above else max(batches, key=lambda each: each.rows)
