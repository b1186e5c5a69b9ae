"""Where the networks of a registry run: on devices of this process, unless others are brought."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from service.batcher import Batcher
from service.errors import DeviceLost
from service.pace import Line
from service.priority import Priority
from service.registry.catalogue import Found
from service.registry.opening import Opener, Ready
from service.replica import Replica
from service.settings import Settings
from service.waiting import BATCH_SHARE


class Engines(Protocol):
    """Opens bundles and runs their networks: `start()` before use, `await close()` after it."""

    @property
    def fixed(self) -> str | None:
        """Why models cannot be loaded, unloaded or weighed while the service runs; None where they can."""
        ...

    @property
    def alive(self) -> bool:
        """False once something has ended that only a restart brings back."""
        ...

    @property
    def queued_rows(self) -> int: ...

    @property
    def devices(self) -> int:
        """How many work at once."""
        ...

    def start(self) -> None: ...

    async def open(self, found: Found, *, note: Callable[[str], None]) -> Ready:
        """As `Opener.open`."""
        ...

    async def discard(self, replicas: Sequence[Replica]) -> None:
        """Close the engines of what nobody uses any more."""
        ...

    def stop(self) -> None:
        """Give up what is being opened, as soon as it can be."""
        ...

    async def close(self) -> None: ...

    def line(self, priority: Priority) -> Line:
        """What a request of this priority finds before it, where there is the least to do."""
        ...

    def waiting(self, priority: Priority) -> int:
        """Batches, or parts of them, of this priority in the queues."""
        ...


class Devices:
    """One device thread for each GPU that was named, else one for whatever the engine runs on."""

    fixed = None

    def __init__(
        self, settings: Settings, *, observe: Callable[[str, int, float], None], on_lost: Callable[[DeviceLost], None]
    ) -> None:
        self._batchers = {
            device: Batcher(
                max_queued_rows=settings.max_queued_rows,
                batch_s=BATCH_SHARE * settings.queue_ms / 1000,
                name=f"device {device}",
                observe=observe,
                on_lost=on_lost,
            )
            for device in settings.devices or (0,)
        }
        self._opener = Opener(settings, devices=self._batchers)
        self.open = self._opener.open
        self.discard = self._opener.discard
        self.stop = self._opener.stop

    @property
    def alive(self) -> bool:
        return all(batcher.alive for batcher in self._batchers.values())

    @property
    def devices(self) -> int:
        return len(self._batchers)

    @property
    def queued_rows(self) -> int:
        return sum(batcher.queued_rows for batcher in self._batchers.values())

    def start(self) -> None:
        for batcher in self._batchers.values():
            batcher.start()

    async def close(self) -> None:
        """Close the engines, each on its device thread, then the threads, whatever one of them says."""
        await self._opener.close_all()
        for batcher in self._batchers.values():
            await asyncio.to_thread(batcher.close)

    def line(self, priority: Priority) -> Line:
        lines = (batcher.line(priority) for batcher in self._batchers.values())
        return min(lines, key=lambda line: line.waiting_s + line.running_s)

    def waiting(self, priority: Priority) -> int:
        return sum(batcher.waiting(priority) for batcher in self._batchers.values())
