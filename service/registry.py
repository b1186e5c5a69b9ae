"""The models that are served: opened, proved and warmed; found by name, version and task."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service.batcher import Batcher
from service.bundle.manifest import Task
from service.bundle.store import Bundle, find_bundles, open_bundle
from service.engine.base import Place
from service.engine.buckets import BUCKETS
from service.engine.golden import warm
from service.engine.select import Opened, open_engine
from service.errors import BundleError, DeviceLost, EngineError, MareyError, UnknownModel
from service.media.limits import Limits
from service.media.workers import DecodePool
from service.predictor import Predictor, Replica
from service.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Broken:
    """A bundle that could not be served, and why."""

    path: Path
    error: MareyError


class Registry:
    """Owns the decoders, the device and the engines: `await start()`, then `get`, then `await close()`."""

    def __init__(
        self,
        settings: Settings,
        *,
        observe: Callable[[str, int, float], None] | None = None,
        on_lost: Callable[[DeviceLost], None] = lambda _error: None,
    ) -> None:
        self._settings = settings
        self._models: dict[str, Predictor] = {}
        self.broken: list[Broken] = []
        limits = Limits(max_pixels=settings.max_pixels, max_duration_s=settings.max_duration_s)
        self.decoders = DecodePool(settings.decode_workers, limits=limits, timeout_s=settings.decode_timeout_s)
        # One device thread for each GPU that was named, else one for whatever the engine runs on.
        self._devices = {
            device: Batcher(
                max_queued_rows=settings.max_queued_rows, name=f"device {device}", observe=observe, on_lost=on_lost
            )
            for device in settings.devices or (0,)
        }
        self._stopping = threading.Event()

    async def start(self) -> None:
        """Open every bundle; one that fails is set aside and named. Raises when none is left to serve."""
        began = time.monotonic()
        await self.decoders.start()  # before the engine's threads exist, so that no worker inherits a lock of theirs
        for batcher in self._devices.values():
            batcher.start()
        for path in find_bundles(self._settings.bundles):
            try:
                self._add(await self._open(path))
            except Exception as error:  # one bundle must not take the others down
                known = error if isinstance(error, MareyError) else BundleError(f"{path} cannot be opened: {error!r}")
                logger.error("bundle %s is not served: %s", path, known, exc_info=None if known is error else error)  # noqa: TRY400  # a sentence of ours says it all
                self.broken.append(Broken(path, known))
        if not self._models:
            raise EngineError("no bundle can be served: " + "; ".join(str(broken.error) for broken in self.broken))
        await self.decoders.warm()
        logger.info("ready in %.1f s: %s", time.monotonic() - began, ", ".join(self._models))

    async def close(self) -> None:
        self._stopping.set()  # an engine that is being built is given up
        for model in self._models.values():
            await model.close()
        for batcher in self._devices.values():
            await asyncio.to_thread(batcher.close)
        await self.decoders.close()

    @property
    def alive(self) -> bool:
        return bool(self._models) and self.decoders.alive and all(batcher.alive for batcher in self._devices.values())

    @property
    def queued_rows(self) -> int:
        return sum(batcher.queued_rows for batcher in self._devices.values())

    @property
    def models(self) -> tuple[Predictor, ...]:
        return tuple(self._models.values())

    def get(self, name: str | None, *, task: Task | None = None) -> Predictor:
        """The model called `NAME` or `NAME:VERSION`; without a name the first that fits `task`. Raises UnknownModel."""
        fitting = [model for model in self.models if task is None or task in model.manifest.tasks]
        if name is None:
            if fitting:
                return fitting[0]
            raise UnknownModel(f"no model here classifies {task}s; those served are {self._names(self.models)}")
        wanted, _, version = name.partition(":")
        for model in fitting:
            if model.manifest.name == wanted and version in ("", model.manifest.version):
                return model
        if any(model.manifest.name == wanted for model in self.models) and not version:
            raise UnknownModel(
                f"model {name!r} does not classify {task}s; those that do are {self._names(tuple(fitting))}"
            )
        raise UnknownModel(f"there is no model {name[:130]!r}; those served are {self._names(self.models)}")

    async def _open(self, path: Path) -> Predictor:
        bundle = await asyncio.to_thread(open_bundle, path)
        if bundle.manifest.network.kind != "encoder_head":
            raise EngineError(f"bundle {bundle.manifest.name} is a clip network, which this version does not serve yet")
        if bundle.manifest.name in self._models:
            raise BundleError(f"a bundle named {bundle.manifest.name!r} is already served; rename one of the two")
        replicas: list[Replica] = []
        try:
            for (
                device,
                batcher,
            ) in self._devices.items():  # one after the other: the second finds the engine in the cache
                opened = await batcher.call(partial(self._open_engine, bundle, device))
                replicas.append(Replica(opened.engine, batcher, opened.golden_difference))
        except BaseException:
            for replica in replicas:
                await replica.batcher.call(replica.engine.close)
            raise
        return Predictor(bundle, replicas=tuple(replicas), decoders=self.decoders)

    def _open_engine(self, bundle: Bundle, device: int) -> Opened:
        settings = self._settings
        place = Place(
            threads=settings.threads,
            device=device,
            engine_cache=settings.engine_cache,
            cancelled=self._stopping.is_set,
        )
        # Whoever names GPUs does not want to be served by the CPU.
        name = "tensorrt" if settings.devices and settings.engine == "auto" else settings.engine
        opened = open_engine(bundle, name=name, precision=settings.precision, place=place)
        warm(opened.engine, bundle, buckets=[rows for rows in BUCKETS if rows <= opened.engine.info.max_batch])
        return opened

    def _add(self, model: Predictor) -> None:
        self._models[model.manifest.name] = model

    @staticmethod
    def _names(models: tuple[Predictor, ...]) -> str:
        return ", ".join(f"{model.manifest.name}:{model.manifest.version}" for model in models) or "none"
