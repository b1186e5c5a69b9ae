"""The networks of one bundle on one device, as one request runs them: frames → features → what the model says of a clip."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service import traces
from service.bundle.manifest import Stage
from service.engine.base import Engine, EngineInfo
from service.gathered import Gathered
from service.inputs import Inputs
from service.priority import Priority
from service.waiting import Network, Rows


class Batches(Protocol):
    """What a replica asks of whoever runs its networks: a `Batcher` with a device of its own, or one that asks others far away."""

    @property
    def pending_rows(self) -> int: ...

    def seconds(self, network: Network, units: float) -> float: ...

    async def run(
        self,
        engine: Engine,
        stage: Stage,
        rows: NDArray[np.generic] | Gathered,
        *,
        deadline: float,
        priority: Priority = "interactive",
    ) -> Rows: ...

    async def run_clip(
        self, engine: Engine, frames: NDArray[np.uint8], *, deadline: float, priority: Priority = "interactive"
    ) -> tuple[Rows, Rows]: ...


@dataclass(frozen=True, slots=True)
class Replica:
    """The bundle on one device: its engine, who runs it there, and its largest |Δp| on the golden clips."""

    engine: Engine
    batcher: Batches
    golden_difference: float

    def seconds(self, frames: int) -> float:
        """What a clip of `frames` takes of the device in all its networks, by what was measured of them."""
        engine = self.engine
        return sum(self.batcher.seconds((id(engine), stage), frames) for stage in engine.info.stages)

    def asked(self, *, deadline: float, priority: Priority, inputs: Inputs | None = None) -> Asked:
        """For one request; `deadline` in monotonic seconds. `inputs` counts the frames that enter the network."""
        return Asked(self, deadline, priority, inputs)


@dataclass(slots=True)
class Asked:
    """One request's use of a replica. Every method raises Overloaded, DeadlineExceeded, Draining or EngineError.

    `info`: what it ran on, once it has run.
    """

    replica: Replica
    deadline: float
    priority: Priority
    inputs: Inputs | None = None
    info: EngineInfo = field(init=False)

    def __post_init__(self) -> None:
        self.info = self.replica.engine.info

    async def encode(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.generic], Rows | None]:
        """What the last network reads of `frames` `[N, H, W, C]` of a longer video, row by row, and how its making ran.

        Features `[N, D]`; for a clip network the frames themselves, and None, because nothing ran.
        """
        rows = None if self.replica.engine.info.stages == ("clip",) else await self.run("encoder", frames)
        if self.inputs is not None:
            self.inputs.stretch(frames)
        return (frames, None) if rows is None else (rows.outputs["features"], rows)

    async def clip(self, frames: NDArray[np.uint8]) -> tuple[Rows | None, Rows]:
        """What the model says of one clip of `frames` `[N, H, W, C]`: how its encoder ran, if it has one, and its last network."""
        batcher, engine = self.replica.batcher, self.replica.engine
        if engine.info.stages == ("clip",):
            judged = await self.judge(frames)
            self.note(frames[None])
            return None, judged
        began = time.monotonic()
        encoded, judged = await batcher.run_clip(engine, frames, deadline=self.deadline, priority=self.priority)
        _trace("encode", encoded, began=began, rows=len(frames))
        _trace("head", judged, began=began + encoded.queue_s + encoded.run_s, rows=1)
        self.info = judged.ran_on or self.info
        self.note(frames[None])
        return encoded, judged

    async def judge(self, source: NDArray[np.generic], chosen: Sequence[Sequence[int]] | None = None) -> Rows:
        """Run the last network over clips made of rows of `source` `[M, …]`: all of it as one clip, or those `chosen` for each clip.

        Clips of equal length run together; rows come back in the order of `chosen`, of the probabilities alone: outputs over time
        have no common shape where lengths differ.
        """
        if chosen is None:
            return self._in_frames(await self.run(self._last, source[None]), len(source))
        by_length: dict[int, list[int]] = {}
        for number, rows in enumerate(chosen):
            by_length.setdefault(len(rows), []).append(number)
        parts = await asyncio.gather(
            *(
                self.run(self._last, Gathered(source, np.array([chosen[number] for number in numbers])))
                for numbers in by_length.values()
            )
        )
        counted = [self._in_frames(part, length) for part, length in zip(parts, by_length, strict=True)]
        order = np.argsort(np.concatenate(list(by_length.values())))
        joined = np.concatenate([part.outputs["probabilities"] for part in parts])[order]
        return Rows(
            {"probabilities": joined},
            max(part.batch_size for part in counted),
            max(part.queue_s for part in parts),
            sum(part.run_s for part in parts),
        )

    async def run(self, stage: Stage, rows: NDArray[np.generic] | Gathered) -> Rows:
        """One network alone, over rows of what it reads: frames `[N, H, W, C]`, features `[B, T, D]`, or clips `[B, T, H, W, C]`."""
        batcher, engine = self.replica.batcher, self.replica.engine
        began = time.monotonic()
        ran = await batcher.run(engine, stage, rows, deadline=self.deadline, priority=self.priority)
        _trace("head" if stage == "head" else "encode", ran, began=began, rows=len(rows))
        self.info = ran.ran_on or self.info
        return ran

    def note(self, clips: NDArray[np.generic]) -> None:
        """Count clips `[B, T, H, W, C]` of frames that went through `run`; the other methods count for themselves."""
        if self.inputs is not None:
            self.inputs.clips(clips.astype(np.uint8, copy=False))

    @property
    def _last(self) -> Stage:
        return self.replica.engine.info.stages[-1]

    def _in_frames(self, rows: Rows, length: int) -> Rows:
        """A clip network's batch in frames, as an encoder's is."""
        return replace(rows, batch_size=rows.batch_size * length) if self._last == "clip" else rows


def _trace(name: str, ran: Rows, *, began: float, rows: int) -> None:
    """A span for the time in the queue from `began` on, and one for the run itself."""
    starts = began + ran.queue_s
    traces.stage("queue", began, starts, waits_for="device")
    traces.stage(name, starts, starts + ran.run_s, batch_size=ran.batch_size, rows=rows)
