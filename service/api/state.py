"""What every request sees of the service: its models, its limits, whether it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, cast

from fastapi import Depends
from fastapi.requests import HTTPConnection

from service.admission import Admission
from service.collectors import ModelReading
from service.errors import DeviceLost, Draining, MareyError, NotReady
from service.jobs.desk import Desk
from service.jobs.job import STATES
from service.nvml import Nvml
from service.pace import Line
from service.priority import PRIORITIES, Priority
from service.registry import Engines, Registry
from service.settings import Settings
from service.spool import Spool
from service.telemetry import Telemetry

if TYPE_CHECKING:
    from service.fetch import Fetcher

Phase = Literal["loading", "ready", "failed", "draining"]


@dataclass(frozen=True, slots=True)
class Outside:
    """What a service that is one of several has elsewhere: `engines`, and `exposition`, the metrics of all of them.

    `jobs`: why it takes none, where another does.
    """

    engines: Engines
    exposition: Callable[[Telemetry], bytes]
    jobs: str | None = None


class State:
    """One per application. `phase` moves loading → ready → draining, or loading → failed; never back.

    `loaded` is set once loading has ended, either way. `on_lost` is called on a device thread whose device has failed.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_lost: Callable[[DeviceLost], None] = lambda _error: None,
        outside: Outside | None = None,
    ) -> None:
        self.settings = settings
        self.telemetry = Telemetry()
        self._exposition = Telemetry.render if outside is None else outside.exposition
        engines = None if outside is None else outside.engines
        self.registry = Registry(settings, observe=self.telemetry.batch, on_lost=on_lost, engines=engines)
        self.phase: Phase = "loading"
        self.failure: MareyError | None = None
        self.loaded = asyncio.Event()
        self.admission = Admission(
            max_requests=settings.max_requests,
            max_rows=settings.max_queued_rows,
            max_bytes=settings.max_queued_bytes,
            max_wait_s=settings.queue_ms / 1000,
            device=self.registry.line,
            devices=lambda: self.registry.devices,
            decoders=self._decoders,
            ready=self.refuse_unless_ready,
            refused=self.telemetry.refused,
        )
        self.streams = 0
        self.stream_frames_dropped = 0
        self.desk = Desk(settings, self.registry, elsewhere=None if outside is None else outside.jobs)
        self.nvml = Nvml()
        self.fetcher: Fetcher | None = None
        self.spool = Spool(settings.spool, max_bytes=settings.max_spool_bytes)
        self.telemetry.watch_gpus(self.nvml.read)
        self.telemetry.watch_models(self._models)
        self.telemetry.watch("marey_models_broken", "Bundles not served as they lie on disk.", self._broken)
        self.telemetry.watch_queue(
            rows=lambda: self.registry.queued_rows,
            entries={each: partial(self.registry.waiting, each) for each in PRIORITIES},
            wait_s={each: partial(self.admission.wait_s, each) for each in PRIORITIES},
            limit_s=self.admission.wait_limit_s,
        )
        self.telemetry.watch("marey_requests_active", "Classifications in progress.", lambda: self.admission.requests)
        self.telemetry.watch("marey_held_bytes", "Uploads and frames held in memory.", lambda: self.admission.bytes)
        self.telemetry.watch("marey_spool_bytes", "Uploads that lie in the spool.", lambda: self.spool.used_bytes)
        self.telemetry.watch("marey_spool_limit_bytes", "What the spool may hold.", lambda: settings.max_spool_bytes)
        self.telemetry.watch("marey_decode_busy", "Decode workers that decode.", lambda: self.registry.decoders.busy)
        self.telemetry.watch(
            "marey_decode_waiting", "Files waiting for a decode worker.", lambda: self.registry.decoders.waiting
        )
        self.telemetry.watch_count(
            "marey_decode_replaced",
            "Decode workers that died or were killed, as by a file that takes too long.",
            lambda: self.registry.decoders.replaced,
        )
        self.telemetry.watch("marey_streams_active", "Live streams that are open.", lambda: self.streams)
        self.telemetry.watch_count(
            "marey_stream_frames_dropped",
            "Frames of live streams that came faster than they were answered.",
            lambda: self.stream_frames_dropped,
        )
        self.telemetry.watch_each(
            "marey_jobs",
            "Jobs that are kept, by their state.",
            "state",
            {state: partial(self.desk.store.counts.__getitem__, state) for state in STATES},
        )
        self.telemetry.watch("marey_ready", "1 while requests are taken.", lambda: float(self.ready))

    @property
    def ready(self) -> bool:
        return self.phase == "ready" and self.registry.alive

    def metrics(self) -> bytes:
        """The exposition for Prometheus; it may take milliseconds, so keep it off the event loop."""
        return self._exposition(self.telemetry)

    def refuse_unless_ready(self) -> None:
        """Raise NotReady or Draining, with the reason, unless requests are taken."""
        if self.phase == "draining":
            raise Draining("the service is stopping; send the request to another instance", retry_after_s=1)
        if self.phase == "loading":
            doing = self.registry.building or "the models are still being loaded"
            raise NotReady(f"{doing}; retry in a moment", retry_after_s=1)
        if self.failure is not None:
            what = "the models could not be loaded: " if self.phase == "failed" else ""
            raise NotReady(f"{what}{self.failure}", retry_after_s=30)
        if self.registry.ended:
            raise NotReady(
                "a device thread, or the watch over the bundles, has ended; restart the service", retry_after_s=30
            )
        self.registry.decoders.check()

    def refuse_where_only_a_restart_helps(self) -> None:
        """Raise NotReady where a device has failed, or its thread has ended; decoders come back by themselves."""
        if self.phase == "ready" and (self.failure is not None or self.registry.ended):
            self.refuse_unless_ready()

    def _decoders(self, priority: Priority) -> Line:
        decoders = self.registry.decoders
        return Line(decoders.waiting_s(priority), decoders.running_s(priority))

    def _models(self) -> list[ModelReading]:
        """For a scrape, on a thread of its own: only what is read in one step."""
        return [
            ModelReading(
                model=name,
                version=version,
                engine=model.info.name if model.info else "",
                precision=model.info.precision if model.info else "",
                share=self.registry.shares(name).get(version, 0.0),
                memory_bytes=held.nbytes if (held := model.held) is not None else 0,
                leases=held.leases if held is not None else 0,
                requests=model.requests,
                inputs=held.predictor.input_drift() if held is not None else {},
            )
            for model in self.registry.known
            if model.servable
            for name, version in (model.key,)
        ]

    def _broken(self) -> float:
        return len(self.registry.broken)


def state_of(connection: HTTPConnection) -> State:
    return cast("State", connection.app.state.marey)


StateOf = Annotated[State, Depends(state_of)]
