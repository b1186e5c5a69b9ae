"""Models come and go while requests are answered: opened, put in the place of former ones, closed after their last lease."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from service.errors import BundleError, DeadlineExceeded, EngineError, MareyError, NotReady, UnknownModel
from service.media.workers import DecodePool
from service.predictor import Predictor
from service.registry.devices import Engines
from service.registry.leases import Held
from service.registry.memory import files, givers
from service.registry.model import Model
from service.registry.opening import Ready
from service.registry.served import Served

logger = logging.getLogger(__name__)


class Loader:
    """On the event loop. `max_bytes`: what all open models together may cost; None: whatever they do.

    # Note [Beyond the budget]
    A model that is opened for the first time has no known cost, and one that is reloaded stands beside what it replaces: both may
    exceed `max_bytes` until others have given way, or the former is closed. One that was measured before waits for room.
    """

    def __init__(self, engines: Engines, served: Served, *, decoders: DecodePool, max_bytes: int | None) -> None:
        self._engines = engines
        self._served = served
        self._decoders = decoders
        self._max_bytes = max_bytes
        self._former: dict[asyncio.Task[None], tuple[Model, Held]] = {}  # in use still, or being closed
        self._loads: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()

    def begin(self, model: Model) -> asyncio.Task[None]:
        """Open what lies on disk of `model`; a second caller gets the same task. It raises what `Opener.open` does."""
        if model.loading is None:
            model.loading = asyncio.create_task(self._load(model), name=f"load {model.title}")
            self._loads.add(model.loading)
            model.loading.add_done_callback(partial(self._ended, model))
        return model.loading

    async def present(self, model: Model, *, deadline: float | None) -> Held:
        """What is open of `model`; if it rests, it is loaded first, whoever asks. Take the lease before anything is awaited.

        Raises NotReady, UnknownModel, or DeadlineExceeded at `deadline`, in monotonic seconds; the loading goes on then.
        """
        model.waiting += 1
        try:
            while model.held is None:
                if not model.resting and model.loading is None:
                    raise UnknownModel(f"model {model.title} was unloaded")
                loading = self.begin(model)
                timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
                done, _ = await asyncio.wait({loading}, timeout=timeout)
                if not done:
                    raise DeadlineExceeded(
                        f"model {model.title} was not back in memory at the deadline; retry in a moment, or raise timeout_ms"
                    )
                if loading.cancelled() or loading.exception() is not None:
                    raise NotReady(f"model {model.title} could not be loaded: {model.reason}", retry_after_s=30)
            return model.held
        finally:
            model.waiting -= 1

    def left(self) -> None:
        """A lease has ended: whoever waits for room may find it now."""
        self._settle()
        self._room.set()

    def unload(self, model: Model) -> None:
        """No request gets it any more; it is closed after its last lease."""
        model.wanted, model.error = False, None
        model.tried = model.tried or model.found.stamp  # else the watch would take it for a new one
        self._retire(model)

    async def close(self) -> None:
        """Give up what is being loaded, and leave the engines to `Engines.close`."""
        tasks = [*self._loads, *self._former]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self, model: Model) -> None:
        found = model.found
        model.tried, model.progress = found.stamp, ""
        try:
            await self._make_room(model)
            ready = await self._engines.open(found, note=partial(setattr, model, "progress"))
            await self._refuse_if_too_large(model, ready)
        except Exception as error:  # one bundle must not take the others down
            known = error if isinstance(error, MareyError) else BundleError(f"{found.path} cannot be opened: {error!r}")
            model.error = known
            what = "is served as it was before" if model.held is not None else "is not served"
            logger.error("bundle %s %s: %s", found.path, what, known, exc_info=None if known is error else error)  # noqa: TRY400  # a sentence of ours says it all
            raise known from error
        predictor = Predictor(ready.bundle, replicas=ready.replicas, decoders=self._decoders)
        former = model.take(Held(predictor, nbytes=ready.nbytes, stamp=found.stamp))
        if former is not None:
            self._close_later(model, former)
        if not model.wanted:
            self.unload(model)
            raise UnknownModel(f"model {model.title} was unloaded while it was opened")
        logger.info("model %s is %s, %s", model.title, "open" if former is None else "reloaded", _mib(ready.nbytes))
        self._settle()

    def _ended(self, model: Model, task: asyncio.Task[None]) -> None:
        model.loading = None
        self._loads.discard(task)
        if not task.cancelled():
            task.exception()  # logged, and kept with the model: nobody need wait for the task

    async def _make_room(self, model: Model) -> None:
        """Wait until what `model` costs fits, as far as that is known; see Note [Beyond the budget]."""
        if self._max_bytes is None:
            return
        known = model.nbytes if model.measured == model.found.stamp else None
        cost = known or files(model.found.manifest)
        self._refuse_size(model, cost, "" if known else " at least")
        while (over := self._cost(but=model) + cost - self._max_bytes) > 0:
            for giver in givers((each for each in self._served if each is not model), over=over):
                self._give_way(giver)
            self._room.clear()
            model.progress = f"it needs {_mib(cost)}, and waits until models that are in use can give way"
            await self._room.wait()
        model.progress = ""

    async def _refuse_if_too_large(self, model: Model, ready: Ready) -> None:
        try:
            self._refuse_size(model, ready.nbytes)
        except EngineError:
            await self._engines.discard(ready.replicas)
            raise

    def _refuse_size(self, model: Model, nbytes: int, least: str = "") -> None:
        if self._max_bytes is not None and nbytes > self._max_bytes:
            raise EngineError(
                f"model {model.title} takes {_mib(nbytes)}{least}, all models together may take {_mib(self._max_bytes)}; "
                "raise MAREY_MAX_MODEL_BYTES"
            )

    def _settle(self) -> None:
        """Bring the open models under the limit again, as far as they are not in use."""
        if self._max_bytes is not None and (over := self._cost() - self._max_bytes) > 0:
            for giver in givers(self._served, over=over):
                self._give_way(giver)

    def _cost(self, *, but: Model | None = None) -> int:
        """Of what is open, and of what is not closed yet; `but` and its former engines left out."""
        held = sum(each.held.nbytes for each in self._served if each.held is not None and each is not but)
        return held + sum(former.nbytes for model, former in self._former.values() if model is not but)

    def _give_way(self, model: Model) -> None:
        logger.info("model %s gives way to others, and comes back when it is asked for", model.title)
        self._retire(model)

    def _retire(self, model: Model) -> None:
        if model.held is not None:
            former, model.held = model.held, None
            self._close_later(model, former)

    def _close_later(self, model: Model, held: Held) -> None:
        model.closing += 1
        task = asyncio.create_task(self._close(held), name=f"close {model.title}")
        self._former[task] = (model, held)
        task.add_done_callback(self._closed)

    async def _close(self, held: Held) -> None:
        await held.idle()
        try:
            await self._engines.discard(held.predictor.replicas)
        except MareyError as error:
            logger.warning("an engine of %s was not closed: %s", held.predictor.manifest.name, error)

    def _closed(self, task: asyncio.Task[None]) -> None:
        model, _ = self._former.pop(task)
        model.closing -= 1
        self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("model %s was not closed", model.title, exc_info=error)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.0f} MiB"
