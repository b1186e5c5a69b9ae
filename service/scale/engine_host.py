"""A replica that runs the networks of one bundle on one device, for ingress replicas that may be on other machines."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service import logs
from service.admission import Admission
from service.bundle.manifest import Stage
from service.errors import BundleError, DeviceLost, EngineError, MareyError
from service.gathered import Gathered
from service.nvml import Nvml
from service.pace import Line
from service.priority import PRIORITIES, Priority
from service.registry.catalogue import Catalogue, Found, Key
from service.registry.devices import Devices
from service.scale.board import Telling, own_name
from service.scale.crossing import Introduction, Reply, Standing
from service.settings import Settings
from service.telemetry import Telemetry
from service.waiting import Rows

logger = logging.getLogger(__name__)

# That those who were asking hear of it, and ask another.
_LAST_ANSWERS_S = 0.2


class EngineHost:
    """A Serve deployment. What a request may meet with is answered and not raised: whatever is raised here arrives as Ray's own.

    `path`: of the bundle on this machine, `key` the name and version expected there. Raises BundleError or EngineError.
    """

    async def __init__(self, path: str, key: Key, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        logs.configure(level=settings.log_level, form=settings.log_format)
        self._name = own_name()
        self._loop = asyncio.get_running_loop()
        self._telemetry = Telemetry()
        self._devices = Devices(settings, observe=self._telemetry.batch, on_lost=self._on_lost)
        self._devices.start()
        ready = await self._devices.open(await asyncio.to_thread(_found, Path(path), key), note=lambda _text: None)
        (self._replica,) = ready.replicas
        self._manifest = ready.bundle.manifest
        self._admission = Admission(
            max_requests=settings.max_requests,
            max_rows=settings.max_queued_rows,
            max_bytes=settings.max_queued_bytes,
            max_wait_s=settings.queue_ms / 1000,
            device=self._devices.line,
            decoders=lambda _priority: Line(),
            ready=lambda: None,
            refused=self._telemetry.refused,
        )
        self._nvml = Nvml()
        self._telemetry.watch_gpus(self._nvml.read)
        self._telemetry.watch_queue(
            rows=lambda: self._devices.queued_rows,
            entries={each: partial(self._devices.waiting, each) for each in PRIORITIES},
            wait_s={each: partial(self._admission.wait_s, each, decodes=False) for each in PRIORITIES},
            limit_s=self._admission.wait_limit_s,
        )
        self._telling = Telling(self._name)
        self._telling.start(self._telemetry)

    async def introduce(self) -> Introduction:
        """Who this is: asked once by each ingress replica."""
        info, difference = self._replica.engine.info, self._replica.golden_difference
        return Introduction(self._manifest, info, difference, self._standing())

    async def run(
        self, stage: Stage, rows: NDArray[np.generic] | Gathered, *, left_s: float, priority: Priority
    ) -> Reply:
        """As `Batcher.run`, `left_s` before the deadline. Features were admitted as frames, and are not asked about again."""
        batcher, engine, deadline = self._replica.batcher, self._replica.engine, time.monotonic() + left_s

        async def ran() -> tuple[Rows, ...]:
            if stage != "head":
                self._admission.check_wait(priority=priority, deadline_s=left_s, decodes=False)
            return (await batcher.run(engine, stage, rows, deadline=deadline, priority=priority),)

        return await self._reply(ran())

    async def run_clip(self, frames: NDArray[np.uint8], *, left_s: float, priority: Priority) -> Reply:
        """As `Batcher.run_clip`, `left_s` before the deadline."""
        batcher, engine, deadline = self._replica.batcher, self._replica.engine, time.monotonic() + left_s

        async def ran() -> tuple[Rows, ...]:
            self._admission.check_wait(priority=priority, deadline_s=left_s, decodes=False)
            return await batcher.run_clip(engine, frames, deadline=deadline, priority=priority)

        return await self._reply(ran())

    async def check_health(self) -> None:
        """Asked by Ray, which puts another replica in the place of one that raises."""
        if not self._devices.alive:
            raise EngineError("the device thread has ended")

    async def __del__(self) -> None:
        """Called by Ray, after the last answer."""
        if hasattr(self, "_telling"):
            self._telling.stop()
            await asyncio.to_thread(self._nvml.close)
        if hasattr(self, "_devices"):
            await self._devices.close()

    async def _reply(self, asked: Awaitable[tuple[Rows, ...]]) -> Reply:
        try:
            rows = await asked
        except MareyError as error:
            return Reply((), self._standing(), error)
        info = self._replica.engine.info
        return Reply(tuple(replace(each, ran_on=info) for each in rows), self._standing())

    def _standing(self) -> Standing:
        batcher, engine = self._replica.batcher, self._replica.engine
        return Standing(
            replica=self._name,
            lines={each: self._devices.line(each) for each in PRIORITIES},
            pace_s={stage: batcher.seconds((id(engine), stage), 1) for stage in engine.info.stages},
        )

    def _on_lost(self, error: DeviceLost) -> None:
        """On the device thread. Only a new process can help: until Ray had asked after its health, requests would come to it."""
        logger.error("%s", error)
        self._loop.call_soon_threadsafe(self._loop.call_later, _LAST_ANSWERS_S, os._exit, 1)


def _found(path: Path, key: Key) -> Found:
    look = Catalogue((path,)).look(served={})
    for each in look.found:
        if each.key == key:
            return each
    reasons = "; ".join(str(broken.error) for broken in look.broken)
    raise BundleError(f"there is no {':'.join(key)} in {path}, where it was when the application was built; {reasons}")
