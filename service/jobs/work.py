"""One job from its file to its segments, in memory that does not grow with the video.

Frames come a few at a time; each goes through the encoder once, and is forgotten when no window to come needs it. What the
windows say is merged and written down as it is found, so that work which was broken off goes on where it stood: the video is
decoded again up to there, but nothing is computed twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, InvalidParameter, Overloaded
from service.jobs.job import Checkpoint, Job, Outcome, Part, Subject
from service.jobs.sliding import Sliding
from service.jobs.store import Store
from service.media.frames import Stretch, Window
from service.media.limits import Limits
from service.media.workers import DecodePool
from service.predictor import Predictor
from service.replica import Asked
from service.segments import Judged, Merging, Segment

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Of all segments of one job: what they take on the disk, and whoever reads them in memory.
MAX_ROWS = 1_000_000
# For each run of the encoder or of the last network: others go first, so it may wait long before it is tried again.
_CHUNK_S = 120.0
_RETRY_S = 10.0
# Frames that the windows judged together hold, so that one job's work does not fill the device's queue.
_JUDGED_FRAMES = 256
# Between two writes to the disk: what is lost when the process is killed.
_SAVE_S = 0.5
_SAVE_SEGMENTS = 500


def subject_of(predictor: Predictor) -> Subject:
    manifest, engine = predictor.manifest, predictor.info
    return Subject(
        engine=engine.name,
        head_engine=engine.head_engine,
        precision=engine.precision,
        float_precision=engine.float_precision,
        device=engine.device,
        labels=manifest.labels,
        multi_label=manifest.network.multi_label,
        artifacts=tuple(sorted(artifact.sha256 for artifact in manifest.artifacts.values())),
    )


class Work:
    """`await run()` once. Raises what decoding or the device raise; Overloaded and DeadlineExceeded are waited out."""

    def __init__(
        self, job: Job, *, store: Store, predictor: Predictor, decoders: DecodePool, file: Path, limits: Limits
    ) -> None:
        self._job = job
        self._store = store
        self._predictor = predictor
        self._decoders = decoders
        self._file = file
        self._limits = limits
        self._rows = _Rows(predictor)
        self._found: list[Segment] = []
        self._saved = time.monotonic()
        self._going = True

    async def run(self) -> None:
        """Look at the whole video, and leave the job done; or stop where it is found to have been cancelled."""
        plan = self._job.wish.windows
        subject = subject_of(self._predictor)
        begun = await self._store.begin(self._job.number, subject=subject)
        self._told = 0 if begun.windows == 0 else (await self._store.get(self._job.id, owner=None)).segments
        self._windows, self._total = begun.windows, begun.total
        self._merging = Merging(multi_label=subject.multi_label, merge=self._job.wish.merge, opened=begun.opened)
        self._sliding = Sliding(plan, done=begun.windows)
        spec = self._predictor.manifest.input
        last: Stretch | None = None
        seen = 0
        stretches = self._decoders.frames(self._file, spec=spec, plan=plan, limits=self._limits, priority="bulk")
        async with aclosing(stretches):
            async for stretch in stretches:
                await self._look(stretch, first=seen)
                seen += len(stretch.frames)
                last = stretch
                if time.monotonic() - self._saved >= _SAVE_S or len(self._found) >= _SAVE_SEGMENTS:
                    await self._save(stretch)
                if not self._going:
                    return
        assert last is not None
        assert last.info is not None
        await self._judge(self._sliding.finish(last.info.duration_s))
        closing = self._merging.close()
        if closing is not None:
            self._add(closing)
        assert self._total is not None
        probabilities = (self._total / self._windows).astype(np.float32)
        stride_s = self._sliding.stride_s(last.info.duration_s)
        await self._save(last, Outcome(last.info, stride_s, self._windows, last.warnings, probabilities))

    async def _look(self, stretch: Stretch, *, first: int) -> None:
        numbers = range(first, first + len(stretch.frames))
        for number, frame in zip(numbers, stretch.frames, strict=True):
            self._rows.frames[number] = frame
        sure = self._sliding.sure(stretch.points)
        await self._rows.encode([number for number, needed in zip(numbers, sure, strict=True) if needed])
        together = max(1, _JUDGED_FRAMES // self._job.wish.windows.frames)
        complete: list[Window] = []
        for points in stretch.points:
            for window in self._sliding.add(points):
                complete.append(window)
                if len(complete) == together:
                    await self._judge(complete)
                    complete = []
        await self._judge(complete)
        self._rows.forget(before=self._sliding.needed)

    async def _judge(self, windows: Sequence[Window]) -> None:
        if not windows:
            return
        probabilities = await self._rows.judge(windows)
        total = probabilities.sum(axis=0, dtype=np.float64)
        self._total = total if self._total is None else self._total + total
        self._windows += len(windows)
        for window, row in zip(windows, probabilities, strict=True):
            segment = self._merging.add(Judged(window.start_s, window.end_s, row))
            if segment is not None:
                self._add(segment)

    def _add(self, segment: Segment) -> None:
        self._found.append(segment)
        classes, most = self._job.wish.classes, MAX_ROWS
        if (self._told + len(self._found)) * classes > most:
            raise InvalidParameter(
                f"more than {most // classes} segments of {classes} classes, {most} rows are kept of one job; "
                "lower top_k, raise stride_s, or leave merge on"
            )

    async def _save(self, at: Stretch, outcome: Outcome | None = None) -> None:
        found, self._found = tuple(self._found), []
        self._told += len(found)
        checkpoint = Checkpoint(self._windows, self._merging.opened, self._total)
        # A header may lie: whoever is told that all is done must not be told later that it is not.
        progress = min(0.99, at.progress_s / at.claimed_s) if at.claimed_s > 0 else 0.0
        part = Part(found, checkpoint, progress, at.progress_s)
        self._going = await self._store.save(self._job, part, outcome=outcome)
        self._saved = time.monotonic()


class _Rows:
    """Frames that windows to come may need, by number, and of those that went through the encoder what it made of them."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.frames: dict[int, NDArray[np.uint8]] = {}
        self._encoded: dict[int, NDArray[np.generic]] = {}

    async def encode(self, numbers: Sequence[int]) -> None:
        """See to it that these went through the encoder, those together that did not yet."""
        missing = [number for number in numbers if number not in self._encoded]
        if not missing:
            return
        frames = np.stack([self.frames[number] for number in missing])
        source, _ = await self._patiently(lambda asked: asked.encode(frames))
        for number, row in zip(missing, source, strict=True):
            self._encoded[number] = row
            del self.frames[number]

    async def judge(self, windows: Sequence[Window]) -> NDArray[np.float32]:
        """What the model says of each window, `[W, K]`."""
        numbers = sorted({number for window in windows for number in range(window.first, window.first + window.count)})
        await self.encode(numbers)
        at = {number: row for row, number in enumerate(numbers)}
        source = np.stack([self._encoded[number] for number in numbers])
        rows_of = self._predictor.rows_of
        chosen = [[at[number] for number in rows_of(window.first, window.count)] for window in windows]
        judged = await self._patiently(lambda asked: asked.judge(source, chosen))
        return judged.outputs["probabilities"]

    def forget(self, *, before: int) -> None:
        self.frames = {number: frame for number, frame in self.frames.items() if number >= before}
        self._encoded = {number: row for number, row in self._encoded.items() if number >= before}

    async def _patiently(self, run: Callable[[Asked], Awaitable[T]]) -> T:
        """Nobody waits for a job: where others fill the queue, it asks again later."""
        while True:
            asked = self._predictor.asked(deadline=time.monotonic() + _CHUNK_S, priority="bulk")
            try:
                return await run(asked)
            except (Overloaded, DeadlineExceeded) as error:
                logger.debug("a job waits: %s", error)
                await asyncio.sleep(min(error.retry_after_s or 1.0, _RETRY_S))
