"""The device threads and what runs on them: opens bundles, proves and warms their engines, closes them.

# Note [Opened aside]
What a CPU engine needs to open, half a second to three, is spent on a thread of its own, one model at a time: on the device
thread it would hold up everybody else's requests. It is used on the device thread alone, once it is warm. TensorRT and CUDA are
bound to the thread that opened them, so there the others wait; see `Kind.bound`.

# Note [Opened twice]
The first model that a process opens also pays for the libraries: 27 MB of OpenVINO's, which stay when it is closed. Against a
budget that could refuse it for good, so where there is one the first is closed, opened again, and measured then. Not on a GPU,
where a second time may mean building an engine for minutes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from service.batcher import Batcher
from service.bundle.store import Bundle, open_bundle
from service.engine.base import Engine, Place
from service.engine.buckets import buckets_up_to
from service.engine.golden import warm
from service.engine.select import ENGINES, Opened, Refused, engines_of, try_engines
from service.errors import BuildCancelled, BundleError, MareyError
from service.registry.catalogue import Found
from service.registry.memory import files, taken, trim
from service.replica import Replica
from service.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ready:
    """A bundle whose engines are open, proved and warm. `nbytes`: what that costs, see memory.py."""

    bundle: Bundle
    replicas: tuple[Replica, ...]
    nbytes: int


class Opener:
    """`devices` are started and closed by whoever made them. One model at a time is opened, or closed.

    `measure` tells what is taken of memory at present, the GPU's by its ordinal included; see memory.py.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        devices: dict[int, Batcher],
        measure: Callable[[int | None], int | None] = taken,
    ) -> None:
        self._measure = measure
        self._devices = devices
        # Whoever names GPUs does not want to be served by the CPU.
        self._names = engines_of("tensorrt" if settings.devices and settings.engine == "auto" else settings.engine)
        self._settings = settings
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="opening")
        self._stopping = threading.Event()
        # Kept here, and not with whoever waits for it: that may be cancelled, and then nobody would close the engine.
        self._engines: dict[int, tuple[int, Engine]] = {}
        self._measured_before = False
        self._turn = asyncio.Lock()  # what is closed while another is measured would falsify that

    def stop(self) -> None:
        """Give up what is being opened, as soon as it can be."""
        self._stopping.set()

    async def open(self, found: Found, *, note: Callable[[str], None] = lambda _text: None) -> Ready:
        """Verify, open, prove and warm; raises BundleError, EngineError or what else is wrong with it. `note`: see Place."""
        async with self._turn:
            return await self._open(found, note)

    async def discard(self, replicas: Sequence[Replica]) -> None:
        """Close the engines of what nobody uses any more, and give their memory back."""
        async with self._turn:
            for replica in replicas:
                await self._close(replica)
            await self._elsewhere(trim)

    async def close_all(self) -> None:
        """Close the engines that are left, each on its device thread, whatever one of them says."""
        self.stop()
        await asyncio.to_thread(self._aside.shutdown)  # what is being opened there ends first, and is known then
        for device, batcher in self._devices.items():
            if batcher.alive:
                try:
                    await batcher.call(partial(self._close_engines, device))
                except MareyError as error:
                    logger.warning("the engines of device %d were not closed: %s", device, error)

    async def _open(self, found: Found, note: Callable[[str], None]) -> Ready:
        bundle = await self._elsewhere(partial(open_bundle, found.path))
        if (bundle.manifest.name, bundle.manifest.version) != found.key:
            raise BundleError(f"{found.path} was replaced while it was opened; it is looked at again")
        ready = await self._measured(bundle, note)
        if self._settings.max_model_bytes is not None and not self._measured_before:
            self._measured_before = True
            if not any(_bound(replica) for replica in ready.replicas):  # Note [Opened twice]
                for replica in ready.replicas:
                    await self._close(replica)
                ready = await self._measured(bundle, note)
        return ready

    async def _measured(self, bundle: Bundle, note: Callable[[str], None]) -> Ready:
        gpu = next(iter(self._devices)) if any(ENGINES[name].bound for name in self._names) else None
        before = await self._elsewhere(partial(self._measure, gpu))
        replicas: list[Replica] = []
        try:
            for (
                device,
                batcher,
            ) in self._devices.items():  # one after the other: the second finds the engine in the cache
                opened = await self._opened(bundle, device, batcher, note)
                replicas.append(Replica(opened.engine, batcher, opened.golden_difference))
        except BaseException:
            for replica in replicas:
                await self._close(replica)
            raise
        after = await self._elsewhere(partial(self._measure, gpu))
        grown = 0 if before is None or after is None else after - before
        return Ready(bundle, tuple(replicas), max(grown, files(bundle.manifest)))

    async def _opened(self, bundle: Bundle, device: int, batcher: Batcher, note: Callable[[str], None]) -> Opened:
        def told(phase: str, part: float) -> None:
            note(f"the TensorRT engine of {bundle.manifest.name} is being built ({phase}, {part:.0%})")

        place = Place(
            threads=self._settings.threads,
            device=device,
            engine_cache=self._settings.engine_cache,
            progress=told,
            cancelled=self._stopping.is_set,
        )
        found: Opened | Refused = Refused()
        for bound in (True, False):  # Note [Opened aside]
            names = [name for name in self._names if ENGINES[name].bound is bound]
            if names and isinstance(found, Refused):
                attempt = partial(self._try, bundle, names, place, found)
                found = await (batcher.call(attempt) if bound else self._elsewhere(attempt))
        if isinstance(found, Refused):
            raise found.error(bundle)
        return found

    def _try(self, bundle: Bundle, names: list[str], place: Place, before: Refused) -> Opened | Refused:
        found = try_engines(bundle, names, precision=self._settings.precision, place=place, before=before)
        if isinstance(found, Refused):
            return found
        self._engines[id(found.engine)] = (place.device, found.engine)
        try:
            self._refuse_if_stopping()
            warm(found.engine, bundle, buckets=buckets_up_to(found.engine.info.max_batch))
        except BaseException:
            self._discard(found.engine)
            raise
        return found

    def _refuse_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise BuildCancelled("the engine was given up, because the service is stopping")

    async def _close(self, replica: Replica) -> None:
        """After the batch that may be under way: of a request that was given up, too."""
        engine = replica.engine
        device, _ = self._engines[id(engine)]
        batcher = self._devices[device]
        await batcher.forget(engine)
        if _bound(replica):
            await batcher.call(partial(self._discard, engine))
        else:
            await self._elsewhere(partial(self._discard, engine))  # OpenVINO takes 70 ms and more for it

    async def _elsewhere(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._aside, work)

    def _discard(self, engine: Engine) -> None:
        self._engines.pop(id(engine), None)
        try:
            engine.close()
        except MareyError as error:
            logger.warning("%s on %s did not close: %s", engine.info.name, engine.info.device, error)

    def _close_engines(self, device: int) -> None:
        """On the device's own thread."""
        for engine in [engine for where, engine in self._engines.values() if where == device]:
            self._discard(engine)


def _bound(replica: Replica) -> bool:
    return ENGINES[replica.engine.info.name].bound
