"""What is measured: one engine at one precision, or torch, each with the same tasks on the same rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from service.bench.stopwatch import Task
from service.engine.base import Engine, EngineInfo, Outputs, Overlapping
from service.engine.buckets import buckets_for
from service.engine.select import Opened


class Runner(BaseModel):
    """Who runs, as it says itself: `float_precision` is that of everything that is not INT8, `device` names what computes.

    `golden_difference`: largest |Δp| on the bundle's golden clips; nothing is timed that exceeds its tolerance. `notes`:
    what is not as usual.
    """

    model_config = ConfigDict(frozen=True)

    engine: str
    precision: str
    float_precision: str
    device: str
    golden_difference: float
    notes: tuple[str, ...] = ()


class Subject(Protocol):
    """Opened, run and closed on one thread, as an engine is. Every task takes its rows from host memory and gives results there."""

    runner: Runner
    max_batch: int

    def entry(self, rows: NDArray[np.uint8]) -> Task:
        """The network that frames enter: `[N, H, W, C]` → features, or of a clip network `[N, T, H, W, C]` → probabilities."""
        ...

    def head(self, features: NDArray[np.float32]) -> Task:
        """`[B, T, D]` → probabilities."""
        ...

    def clip(self, frames: NDArray[np.uint8]) -> Task:
        """`[T, H, W, C]` → probabilities, as a request of the service runs."""
        ...

    def overlapped(self, rows: NDArray[np.uint8]) -> Task | None:
        """As `entry`, with two batches under way; a run lasts from one result to the next. None: this one cannot."""
        ...

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]: ...

    def close(self) -> None: ...


class EngineSubject:
    """An engine of the service, opened and proved as the service does it."""

    def __init__(self, opened: Opened) -> None:
        self._engine: Engine = opened.engine
        info: EngineInfo = self._engine.info
        self.max_batch = info.max_batch
        self.runner = Runner(
            engine=info.name,
            precision=info.precision,
            float_precision=info.float_precision,
            device=info.device,
            golden_difference=opened.golden_difference,
            notes=(f"head on {info.head_engine}",) if info.head_engine else (),
        )

    def entry(self, rows: NDArray[np.uint8]) -> Task:
        return Task(lambda: self._engine.run(self._engine.info.stages[0], rows))

    def head(self, features: NDArray[np.float32]) -> Task:
        return Task(lambda: self._engine.run("head", features))

    def clip(self, frames: NDArray[np.uint8]) -> Task:
        if self._engine.info.stages == ("clip",):
            return Task(lambda: self._engine.run("clip", frames[None])["probabilities"])
        return Task(lambda: self._engine.run("head", self.features(frames)[None])["probabilities"])

    def overlapped(self, rows: NDArray[np.uint8]) -> Task | None:
        engine = self._engine
        if not isinstance(engine, Overlapping):
            return None
        under_way: list[Callable[[], Outputs]] = []

        def begin() -> None:
            under_way.append(engine.begin(engine.info.stages[0], [rows], bucket=len(rows)))

        def end() -> None:
            under_way.pop(0)()

        def run() -> None:
            begin()
            end()

        return Task(run, prepare=begin, settle=end)

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Cut into batches as the service cuts them; an engine that overlaps does it itself, two of them under way."""
        engine, parts = self._engine, []
        if isinstance(engine, Overlapping):
            return engine.run("encoder", frames)["features"]
        for start in range(0, len(frames), self.max_batch):
            chunk = frames[start : start + self.max_batch]
            for first, count, bucket in buckets_for(len(chunk)):
                rows = _filled(chunk[first : first + count], bucket)
                parts.append(engine.run("encoder", rows)["features"][:count])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        self._engine.close()


def _filled(rows: NDArray[np.uint8], bucket: int) -> NDArray[np.uint8]:
    if len(rows) == bucket:
        return rows
    return np.concatenate([rows, np.zeros((bucket - len(rows), *rows.shape[1:]), rows.dtype)])
