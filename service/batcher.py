"""What callers see of a device: rows go in, together with those of others, and their own come back.

A request is cut into as many entries as it takes batches; two of them wait or run at a time, so that those of a long video
take turns with everybody else's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Stage
from service.device import Device, too_late
from service.engine.base import Engine
from service.engine.buckets import buckets_up_to
from service.errors import DeviceLost
from service.gathered import Gathered
from service.pace import Line
from service.priority import Priority
from service.waiting import BATCH_S, Entry, Network, Rows, work

T = TypeVar("T")

# One for the device, and one to follow it.
_AT_ONCE = 2


class Batcher:
    """Owns one device thread. `start` it before use; `close` fails whatever still waits.

    `batch_s`: how long a batch of several may take, see service/waiting.py. `observe` is told the stage, rows and seconds of each;
    `on_lost` is called on the thread, which ends then, after every caller was answered.
    """

    def __init__(
        self,
        *,
        max_queued_rows: int,
        batch_s: float = BATCH_S,
        name: str = "device",
        observe: Callable[[Stage, int, float], None] | None = None,
        on_lost: Callable[[DeviceLost], None] = lambda _error: None,
    ) -> None:
        self._batch_s = batch_s
        self._device = Device(
            max_queued_rows=max_queued_rows,
            batch_s=batch_s,
            name=name,
            observe=observe or (lambda _stage, _rows, _seconds: None),
            on_lost=on_lost,
        )

    def start(self) -> None:
        self._device.start()

    def close(self) -> None:
        """Let the running batch end, fail what waits with Draining, and join the thread."""
        self._device.close()

    @property
    def alive(self) -> bool:
        return self._device.alive

    @property
    def queued_rows(self) -> int:
        """Rows in the queue; a clip for a clip network counts as its frames."""
        return self._device.queued_rows

    @property
    def pending_rows(self) -> int:
        """Those that wait and those that run."""
        return self._device.queued_rows + self._device.flying_rows

    def waiting(self, priority: Priority) -> int:
        """Entries of this priority in the queue."""
        return self._device.waiting(priority)

    def line(self, priority: Priority) -> Line:
        """As `Device.line`."""
        return self._device.line(priority)

    def seconds(self, network: Network, units: float) -> float:
        """What `units` of `work` take of the device; 0 before the first batch of that network."""
        return self._device.pace.seconds(network, units)

    async def forget(self, engine: Engine) -> None:
        """`engine` will be asked nothing more. Returns once what it was asked has run, and nothing is known of it."""

        def forgotten() -> None:  # another engine may come to lie where this one did
            for stage in engine.info.stages:
                self._device.pace.forget((id(engine), stage))

        await self.call(forgotten)

    async def call(self, job: Callable[[], T]) -> T:
        """Run `job` on the device thread, between batches: the place to open, warm and close engines."""
        return await self._device.call(job)

    async def run(
        self,
        engine: Engine,
        stage: Stage,
        rows: NDArray[np.generic] | Gathered,
        *,
        deadline: float,
        priority: Priority = "interactive",
    ) -> Rows:
        """Send `rows` `[N, …]` through one network; N may exceed the largest batch. `deadline` is in monotonic seconds.

        Rows that are `Gathered` exist only while their batch runs. What has not begun at the deadline, or when the caller is
        cancelled, never runs. Raises Overloaded, DeadlineExceeded, Draining or EngineError.
        """
        parts = await self._all(self._chunks(engine, stage, rows, deadline, priority), deadline)
        if len(parts) == 1:
            return parts[0]
        names = parts[0].outputs
        return Rows(
            {name: np.concatenate([part.outputs[name] for part in parts]) for name in names},
            max(part.batch_size for part in parts),
            parts[0].queue_s,
            sum(part.run_s for part in parts),
        )

    async def run_clip(
        self, engine: Engine, frames: NDArray[np.uint8], *, deadline: float, priority: Priority = "interactive"
    ) -> tuple[Rows, Rows]:
        """Send `frames` `[N, …]` of one clip through the encoder, and their features through the head: what each gave; as `run`.

        Where they fit into one batch the head follows on the device thread, before others' turn.
        """
        entries = self._chunks(engine, "encoder", frames, deadline, priority)
        if len(entries) == 1:
            entries[0].then = "head"
            (judged,) = await self._all(entries, deadline)
            assert entries[0].first is not None
            return entries[0].first, judged
        encoded = await self.run(engine, "encoder", frames, deadline=deadline, priority=priority)
        features = encoded.outputs["features"][None]
        return encoded, await self.run(engine, "head", features, deadline=deadline, priority=priority)

    async def _all(self, entries: Sequence[Entry], deadline: float) -> list[Rows]:
        """The rows of each, or none before the deadline."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise too_late()
        self._device.refuse_beyond(sum(entry.load for entry in entries[:_AT_ONCE]))
        try:
            async with asyncio.timeout(left_s):
                return await self._in_turn(entries)
        except TimeoutError:
            raise too_late() from None

    def _chunks(
        self, engine: Engine, stage: Stage, rows: NDArray[np.generic] | Gathered, deadline: float, priority: Priority
    ) -> list[Entry]:
        """As many rows in each as a batch holds; of bulk as many as keep nobody waiting."""
        most = engine.info.max_batch
        if priority == "bulk":
            a_row = work(stage, rows[:1])
            enough = self._device.pace.most((id(engine), stage), self._batch_s) / a_row
            most = max([1, *(bucket for bucket in buckets_up_to(most) if bucket <= enough)])
        loop = asyncio.get_running_loop()
        return [
            Entry(engine, stage, rows[start : start + most], deadline, priority, loop.create_future())
            for start in range(0, len(rows), most)
        ]

    async def _in_turn(self, entries: Sequence[Entry]) -> list[Rows]:
        """The rows of each, of which `_AT_ONCE` are in the queue or under way. What has not begun on leaving is withdrawn."""
        parts: list[Rows] = []
        try:
            for number, entry in enumerate(entries):
                if number >= _AT_ONCE:
                    parts.append(await entries[number - _AT_ONCE].future)
                self._device.put(entry)
            for entry in entries[len(parts) :]:
                parts.append(await entry.future)  # noqa: PERF401  # those that came are known if a later one fails
        finally:
            self._device.withdraw(entries[len(parts) :])
        return parts
