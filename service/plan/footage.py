"""Processor time of the service's own decode worker on real clips: of each frame, and of each frame that is looked at.

# Note [Two plans]
A clip is decoded with two plans in turn: one that looks at a single frame, and one that looks at as many as the model does.
Their difference is what looking costs, the rest is what decoding costs, which grows with the clip and not with the model.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from service.bundle.manifest import Input, Manifest, Sampling
from service.engine.buckets import usual_frames
from service.errors import MareyError
from service.live import WINDOW_S
from service.media.feed import CONTAINERS, decode_feed
from service.media.frames import VideoInfo
from service.media.grid import Container
from service.media.limits import Limits
from service.media.sniff import video_container
from service.media.workers import DecodePool
from service.plan.figures import Footage, Measured

_HEAD = 4096
# A grid so wide that no stream reaches its first point: what is left is decoding.
_NEVER_S = 1e6


@dataclass(slots=True)
class _Group:
    """Clips of one codec and about one size, and what was found of them so far: core-seconds."""

    container: str
    files: list[bytes] = field(default_factory=list)
    infos: list[VideoInfo] = field(default_factory=list)
    frame: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    live_frame: list[float] = field(default_factory=list)
    live_kept: list[float] = field(default_factory=list)

    @property
    def pixels(self) -> int:
        return self.usual.width * self.usual.height

    @property
    def usual(self) -> VideoInfo:
        """Of the clip in the middle, by size."""
        return sorted(self.infos, key=lambda info: info.width * info.height)[len(self.infos) // 2]

    def footage(self) -> Footage:
        each = zip(self.files, self.infos, strict=True)
        return Footage(
            codec=self.usual.codec,
            container=self.container,
            width=self.usual.width,
            height=self.usual.height,
            fps=round(median(info.fps for info in self.infos), 3),
            clips=len(self.files),
            seconds=round(median(info.duration_s for info in self.infos), 3),
            bytes_per_s=round(median(len(data) / info.duration_s for data, info in each)),
            frame=Measured.of(self.frame),
            kept=Measured.of(self.kept),
            preprocess_share=round(median(self.shares), 4),
            live_frame=Measured.of(self.live_frame) if self.live_frame else None,
            live_kept=Measured.of(self.live_kept) if self.live_kept else None,
        )


def measure_footage(
    files: Sequence[bytes], *, manifest: Manifest, seconds: float, rounds: int, tell: Callable[[str], None]
) -> tuple[Footage, ...]:
    """One entry for each codec, container and size (to about a fifth) among the videos `files`, largest last; `seconds` for each.

    Raises MareyError where a clip is too short to tell two plans apart.
    """
    return asyncio.run(_measure(files, manifest=manifest, seconds=seconds, rounds=rounds, tell=tell))


async def _measure(
    files: Sequence[bytes], *, manifest: Manifest, seconds: float, rounds: int, tell: Callable[[str], None]
) -> tuple[Footage, ...]:
    sampling = Sampling(strategy="uniform", frames=usual_frames(manifest), max_frames=manifest.sampling.max_frames)
    spec = manifest.input
    # A reader of streams changes its process for good: files have another worker.
    pool, live = (DecodePool(size=1, calls_per_worker=1_000_000) for _ in range(2))
    async with pool, live:
        await pool.warm()
        await live.warm()
        groups = await _grouped(files, pool, spec=spec, sampling=sampling)
        for number in range(rounds):
            tell(f"decoding, round {number + 1} of {rounds}")
            for group in reversed(groups) if number % 2 else groups:
                await _turn(group, pool, live, spec=spec, sampling=sampling, seconds=seconds / rounds)
    return tuple(group.footage() for group in groups)


async def _grouped(files: Sequence[bytes], pool: DecodePool, *, spec: Input, sampling: Sampling) -> list[_Group]:
    groups: dict[tuple[object, ...], _Group] = {}
    for data in files:
        info = (await pool.video(data, spec=spec, plan=sampling)).clip.source
        assert isinstance(info, VideoInfo)
        container = video_container(data[:_HEAD])
        key = (info.codec, container, round(4 * math.log2(info.width * info.height)))
        group = groups.setdefault(key, _Group(container))
        group.files.append(data)
        group.infos.append(info)
        if min(info.frames_decoded, sampling.frames) < 2:
            raise MareyError(
                f"a clip of {info.frames_decoded} frame(s), of which {sampling.frames} are looked at, cannot be split into "
                "what a frame and what looking at it costs; give longer clips"
            )
    return sorted(groups.values(), key=lambda group: (group.pixels, group.container))


async def _turn(
    group: _Group, pool: DecodePool, live: DecodePool, *, spec: Input, sampling: Sampling, seconds: float
) -> None:
    """Clip after clip for about `seconds`, at least one."""
    single = sampling.model_copy(update={"frames": 1})
    form = next((name for name, title in CONTAINERS.items() if title == group.container), None)
    until, first = time.monotonic() + seconds, len(group.frame)
    while len(group.frame) == first or time.monotonic() < until:
        data = group.files[len(group.frame) % len(group.files)]
        spent: list[float] = []
        for plan in (single, sampling):
            before = await pool.submit(time.process_time)
            decoded = await pool.video(data, spec=spec, plan=plan)
            spent.append(await pool.submit(time.process_time) - before)
        info = decoded.clip.source
        assert isinstance(info, VideoInfo)
        looking = (spent[1] - spent[0]) / (len(decoded.clip.frames) - 1)
        group.kept.append(looking)
        group.frame.append((spent[0] - max(0.0, looking)) / info.frames_decoded)
        group.shares.append(decoded.preprocess_ms / (decoded.preprocess_ms + decoded.decode_ms))
        if form is not None:
            spacing_s = WINDOW_S / sampling.frames
            passing, _ = await live.submit(stream_cost, data, container=form, spec=spec, spacing_s=_NEVER_S)
            grid, seen = await live.submit(stream_cost, data, container=form, spec=spec, spacing_s=spacing_s)
            group.live_kept.append((grid - passing) / seen)
            group.live_frame.append(passing / info.frames_decoded)


def stream_cost(data: bytes, *, container: Container, spec: Input, spacing_s: float) -> tuple[float, int]:
    """Core-seconds of this process for `data` as a stream through a pipe, and how many frames of the grid it gave."""
    theirs, ours = os.pipe()

    def write() -> None:
        with os.fdopen(ours, "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=write, name="writer")
    began = time.process_time()
    writer.start()
    seen = 0
    try:
        # It closes its end of the pipe whatever happens, and so the writer ends.
        for _ in decode_feed(theirs, container=container, spec=spec, spacing_s=spacing_s, limits=Limits()):
            seen += 1
    finally:
        writer.join()
    return time.process_time() - began, seen
