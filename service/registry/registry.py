"""The models that are served: opened, proved and warmed; found by name, version and task."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service.batcher import Batcher
from service.bundle.manifest import Task
from service.bundle.store import Bundle, find_bundles, open_bundle
from service.engine.base import Engine, Place
from service.engine.buckets import buckets_up_to
from service.engine.golden import warm
from service.engine.select import Opened, open_engine
from service.errors import BuildCancelled, BundleError, DeviceLost, EngineError, MareyError, UnknownModel
from service.media.limits import Limits
from service.media.workers import DecodePool
from service.predictor import Predictor
from service.replica import Replica
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
        self._engines: list[tuple[int, Engine]] = []
        self.building = ""  # what is being built, for those who ask whether the service is ready

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

    def stop(self) -> None:
        """Give up what is being loaded, as soon as it can be; `close` follows."""
        self._stopping.set()

    async def close(self) -> None:
        """Close the engines, each on its device thread, then the threads and the decoders, whatever one of them says."""
        self.stop()
        for device, batcher in self._devices.items():
            if batcher.alive:
                try:
                    await batcher.call(partial(self._close_engines, device))
                except MareyError as error:
                    logger.warning("the engines of device %d were not closed: %s", device, error)
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

    @asynccontextmanager
    async def lease(self, name: str | None, *, task: Task | None = None) -> AsyncIterator[Predictor]:
        """As `get`, for the time of one request: what is leased stays open. Raises UnknownModel."""
        yield self.get(name, task=task)

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
        if bundle.manifest.name in self._models:
            raise BundleError(f"a bundle named {bundle.manifest.name!r} is already served; rename one of the two")
        replicas: list[Replica] = []
        for device, batcher in self._devices.items():  # one after the other: the second finds the engine in the cache
            try:
                opened = await batcher.call(partial(self._open_engine, bundle, device))
            except Exception:
                for replica in replicas:
                    await replica.batcher.call(partial(self._discard, replica.engine))
                raise
            replicas.append(Replica(opened.engine, batcher, opened.golden_difference))
        return Predictor(bundle, replicas=tuple(replicas), decoders=self.decoders)

    def _open_engine(self, bundle: Bundle, device: int) -> Opened:
        settings = self._settings
        place = Place(
            threads=settings.threads,
            device=device,
            engine_cache=settings.engine_cache,
            progress=partial(self._note, bundle.manifest.name),
            cancelled=self._stopping.is_set,
        )
        # Whoever names GPUs does not want to be served by the CPU.
        name = "tensorrt" if settings.devices and settings.engine == "auto" else settings.engine
        opened = open_engine(bundle, name=name, precision=settings.precision, place=place)
        self.building = ""
        # Kept here, and not with whoever waits for it: that may be cancelled, and then nobody would close the engine.
        self._engines.append((device, opened.engine))
        try:
            self._refuse_if_stopping()
            warm(opened.engine, bundle, buckets=buckets_up_to(opened.engine.info.max_batch))
        except BaseException:
            self._discard(opened.engine)
            raise
        return opened

    def _refuse_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise BuildCancelled("the engine was given up, because the service is stopping")

    def _discard(self, engine: Engine) -> None:
        """On the engine's device thread."""
        self._engines = [each for each in self._engines if each[1] is not engine]
        try:
            engine.close()
        except MareyError as error:
            logger.warning("%s on %s did not close: %s", engine.info.name, engine.info.device, error)

    def _close_engines(self, device: int) -> None:
        """On the device's own thread."""
        for engine in [engine for where, engine in self._engines if where == device]:
            self._discard(engine)

    def _note(self, name: str, phase: str, part: float) -> None:
        self.building = f"the TensorRT engine of {name} is being built ({phase}, {part:.0%})"

    def _add(self, model: Predictor) -> None:
        self._models[model.manifest.name] = model

    @staticmethod
    def _names(models: tuple[Predictor, ...]) -> str:
        return ", ".join(f"{model.manifest.name}:{model.manifest.version}" for model in models) or "none"
