"""The models that are served: found by name, version and task, and leased for the time of a request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.bundle.manifest import Task
from service.errors import DeviceLost, EngineError, InvalidParameter, MareyError, NotAllowed, NotReady, UnknownModel
from service.media.limits import Limits
from service.media.workers import DecodePool
from service.pace import Line
from service.predictor import Predictor
from service.priority import Priority
from service.registry.catalogue import Broken
from service.registry.devices import Devices, Engines
from service.registry.loading import Loader
from service.registry.model import Model, State
from service.registry.served import Served
from service.registry.shares import Weights, parse
from service.registry.watch import Watch
from service.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listed:
    """One version, or one bundle that has none, as Triton's repository index tells it."""

    name: str
    version: str
    state: State
    reason: str


class Registry:
    """Owns the decoders, the engines and the models: `await start()`, then `lease`, then `await close()`.

    `engines`: what runs the networks, if not the devices of this process, of which `observe` and `on_lost` are told.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        observe: Callable[[str, int, float], None] = lambda _stage, _rows, _seconds: None,
        on_lost: Callable[[DeviceLost], None] = lambda _error: None,
        engines: Engines | None = None,
    ) -> None:
        self._settings = settings
        limits = Limits(max_pixels=settings.max_pixels, max_duration_s=settings.max_duration_s)
        self.decoders = DecodePool(settings.decode_workers, limits=limits, timeout_s=settings.decode_timeout_s)
        self._engines = engines or Devices(settings, observe=observe, on_lost=on_lost)
        self._served = Served()
        self._loader = Loader(self._engines, self._served, decoders=self.decoders, max_bytes=settings.max_model_bytes)
        self._watch = Watch(settings.bundles, self._served, self._loader)
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open every bundle; one that fails is set aside and named. Raises when none is left to serve."""
        began = time.monotonic()
        await self.decoders.start()  # before the engine's threads exist, so that no worker inherits a lock of theirs
        self._engines.start()
        await self._watch.look()
        self._weigh_as_set()
        found = list(self._served)
        # Where not all of them fit, the first ones stay: who is opened last gives way last.
        for model in found if self._settings.max_model_bytes is None else reversed(found):
            model.wanted = True
            await asyncio.wait({self._loader.begin(model)})
        if not self.models:
            raise EngineError("no bundle can be served: " + "; ".join(str(broken.error) for broken in self.broken))
        try:
            await self.decoders.warm()
        except NotReady as error:  # they come back by themselves, and the service is not ready until then
            logger.error("%s", error)  # noqa: TRY400  # the reason is in the log already
        if self._settings.watch_s is not None:
            self._watching = asyncio.create_task(self._watch.forever(self._settings.watch_s), name="watch")
        titles = ", ".join(model.title for model in self.known if model.servable)
        logger.info("ready in %.1f s: %s", time.monotonic() - began, titles)

    def stop(self) -> None:
        """Give up what is being loaded, as soon as it can be; `close` follows."""
        self._engines.stop()

    async def close(self) -> None:
        """Close the engines, then the decoders."""
        self.stop()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._loader.close()
        await self._engines.close()
        await self.decoders.close()

    @property
    def alive(self) -> bool:
        """Whether requests can be answered: without decoders or a device thread, or once the watch has ended, they cannot all be."""
        return not self.ended and self.decoders.alive

    @property
    def ended(self) -> bool:
        """Whether something has ended that only a restart brings back; decoders come back by themselves."""
        watched = self._watching is None or not self._watching.done()
        return not (watched and self._engines.alive)

    @property
    def building(self) -> str:
        """What is being built, for those who ask whether the service is ready."""
        return next((model.progress for model in self._served if model.loading and model.progress), "")

    @property
    def queued_rows(self) -> int:
        return self._engines.queued_rows

    @property
    def devices(self) -> int:
        """How many devices work at once."""
        return self._engines.devices

    def line(self, priority: Priority) -> Line:
        """What a request of this priority finds before it, on the device with the least to do."""
        return self._engines.line(priority)

    def waiting(self, priority: Priority) -> int:
        """Batches, or parts of them, of this priority in the queues."""
        return self._engines.waiting(priority)

    @property
    def models(self) -> tuple[Predictor, ...]:
        """Those that are open."""
        return tuple(model.held.predictor for model in self._served if model.held is not None)

    @property
    def known(self) -> tuple[Model, ...]:
        """Every version that is known, loaded or not, in the order of the folders. To be read only."""
        return tuple(self._served)

    @property
    def broken(self) -> tuple[Broken, ...]:
        """What is not served as it lies on disk, and why."""
        failed = (Broken(model.found.path, model.error) for model in self._served if model.error is not None)
        return *failed, *self._watch.broken

    @asynccontextmanager
    async def lease(
        self, name: str | None, *, task: Task | None = None, deadline: float | None = None
    ) -> AsyncIterator[Predictor]:
        """The model for one request: it stays open during the block, whatever is unloaded meanwhile.

        `name` is `NAME:VERSION`, or `NAME`: then the version is drawn by share, the newest where no shares were set; or None: the
        first name that fits `task`. A model that gave way to others is loaded first, for which the request waits until
        `deadline` (monotonic seconds). Raises UnknownModel, NotReady or DeadlineExceeded.
        """
        model = self._served.pick(name, task=task)
        held = await self._loader.present(model, deadline=deadline)
        try:
            with held.leased() as predictor:
                model.ask()
                yield predictor
        finally:
            self._loader.left()

    def get(self, name: str | None, *, task: Task | None = None) -> Predictor:
        """As `lease`, to look at and not to use: it may be closed at any time. Raises NotReady for one that rests, too."""
        model = self._served.pick(name, task=task)
        if model.held is None:
            raise NotReady(f"model {model.title} is not open: {model.reason}", retry_after_s=1)
        return model.held.predictor

    def answering(self, task: Task) -> frozenset[str]:
        """`NAME:VERSION` of each that can be leased for this task: it is open, or rests and is loaded when it is asked for."""
        return self._served.answering(task)

    def named(self, name: str) -> list[Model]:
        """The versions that `NAME` or `NAME:VERSION` means, newest first, loaded or not. Raises UnknownModel."""
        return self._served.named(name)

    def shares(self, name: str) -> dict[str, float]:
        """Of the requests for `name` without a version, by version; nothing where none can be served. Raises UnknownModel."""
        return dict(self._served.shares(name))

    def default(self, name: str) -> str | None:
        """The version with the largest share. Raises UnknownModel."""
        return self._served.default(name)

    def weigh(self, name: str, weights: Weights) -> None:
        """Share out the requests for `name`; no weights: the newest has all. Raises UnknownModel, InvalidParameter or NotAllowed."""
        self._refuse_if_fixed()
        self._served.weigh(name, weights)
        logger.info("shares of %s are now %s", name, self.shares(name))

    async def index(self) -> list[Listed]:
        """All that lies in the folders now, loaded or not, and all that is served."""
        await self._watch.look()
        listed = [Listed(*model.key, model.state, model.reason) for model in self._served]
        return listed + [Listed(each.path.name, "", "UNAVAILABLE", str(each.error)) for each in self._watch.broken]

    async def load(self, name: str) -> None:
        """Load every version of `NAME`, or `NAME:VERSION`, from disk; one that is served is replaced once the new one is warm.

        Raises UnknownModel, NotAllowed, or what was wrong with the first that failed: what was served before still is.
        """
        self._refuse_if_fixed()
        await self._watch.look()
        try:
            models = self.named(name)
        except UnknownModel as error:
            reasons = "".join(f"; {broken.error}" for broken in self._watch.broken)
            raise UnknownModel(f"{error}{reasons}") from None
        errors = [await self._loaded(model) for model in reversed(models)]
        if failed := next((error for error in errors if error is not None), None):
            raise failed

    async def unload(self, name: str) -> None:
        """No request gets it from now on; it is closed after its last lease. Raises UnknownModel or NotAllowed."""
        self._refuse_if_fixed()
        for model in self.named(name):
            self._loader.unload(model)
            logger.info("model %s is unloaded, as it was asked for", model.title)

    async def _loaded(self, model: Model) -> MareyError | None:
        """Load `model` as it lies on disk now; what is wrong with it, if anything."""
        model.wanted = True
        while True:
            task = self._loader.begin(model)
            await asyncio.wait({task})
            if task.cancelled() or model.tried == model.found.stamp:
                break  # else it was begun before, from other files
        error = None if task.cancelled() else task.exception()
        assert error is None or isinstance(error, MareyError)
        return error

    def _refuse_if_fixed(self) -> None:
        if self._engines.fixed is not None:
            raise NotAllowed(self._engines.fixed)

    def _weigh_as_set(self) -> None:
        try:
            for name, weights in parse(self._settings.weights).items():
                self._served.weigh(name, weights)
        except (UnknownModel, InvalidParameter) as error:
            raise InvalidParameter(f"MAREY_WEIGHTS: {error}") from None
