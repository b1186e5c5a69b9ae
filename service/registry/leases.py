"""A model that is open, and who uses it: it closes after its last lease."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from service.predictor import Predictor


class Held:
    """One opened bundle. On the event loop only.

    `nbytes`: what it costs, see memory.py; `stamp`: of the files that it was opened from, see catalogue.py.
    """

    def __init__(self, predictor: Predictor, *, nbytes: int, stamp: str) -> None:
        self.predictor = predictor
        self.nbytes = nbytes
        self.stamp = stamp
        self.leases = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def leased(self) -> Iterator[Predictor]:
        """It stays open during the block."""
        self.leases += 1
        self._idle.clear()
        try:
            yield self.predictor
        finally:
            self.leases -= 1
            if not self.leases:
                self._idle.set()

    async def idle(self) -> None:
        """Return once nobody uses it."""
        while self.leases:  # between the event and this task's turn somebody may have come
            await self._idle.wait()
