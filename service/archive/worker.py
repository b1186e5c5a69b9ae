"""An actor of Ray Data: a whole service in its process, which answers file after file as any other would."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pyarrow as pa
from httpx import AsyncClient

from service import logs
from service.api.state import Outside
from service.archive.source import File, Location
from service.archive.table import row, table
from service.client import Result, Wishes, answer, in_process
from service.errors import EmptyFile, MareyError
from service.registry.catalogue import Key
from service.scale.distant import DistantEngines
from service.settings import Settings
from service.telemetry import Telemetry

T = TypeVar("T")

# For each decoder: one that it works on, and one to follow.
_AHEAD = 2
_PASSING = (429, 503)
_EMPTY: Result = {"error": {"code": EmptyFile.code, "detail": "the file has 0 bytes"}}
_PAUSES_S = (1, 2, 5, 10, 20, 30, 60)


class Worker:
    """Called with a table of `path`, `size` and `modified`; gives the rows of table.py.

    `engines`: bundles whose networks run in replicas elsewhere; None: in this process.
    """

    def __init__(
        self, source: Location, settings: Settings, wishes: Wishes, looks: Wishes, engines: Sequence[Key] | None
    ) -> None:
        logs.configure(level=settings.log_level, form=settings.log_format)
        self._source = source
        self._wishes, self._looks = wishes, looks
        self._at_once = asyncio.Semaphore(_AHEAD * settings.decode_workers)
        self._loop = asyncio.new_event_loop()
        # Neither is ever ended by us: Ray ends the process, and its decoders end with it.
        threading.Thread(target=self._loop.run_forever, name="service", daemon=True).start()
        self._stack = AsyncExitStack()
        self._client = self._run(self._start(settings, engines))

    def __call__(self, files: pa.Table) -> pa.Table:
        return self._run(self._all([File(**each) for each in files.to_pylist()]))

    async def _start(self, settings: Settings, engines: Sequence[Key] | None) -> AsyncClient:
        outside = None
        if engines is not None:
            outside = Outside(DistantEngines(engines), Telemetry.render)
        return await self._stack.enter_async_context(in_process(settings, outside=outside))

    async def _all(self, files: Sequence[File]) -> pa.Table:
        return table(await asyncio.gather(*map(self._one, files)))

    async def _one(self, file: File) -> dict[str, Any]:
        async with self._at_once:
            try:
                data = await asyncio.to_thread(self._source.read, file.path)
                found = await self._answered(data) if data else _EMPTY
            except MareyError as error:
                found = {"error": {"code": "unreadable", "detail": str(error)}}
            return row(file, found)

    async def _answered(self, data: bytes) -> Result:
        """Asked again while engines elsewhere have too much to do, or come up."""
        for pause_s in _PAUSES_S:
            found = await answer(self._client, data, wishes=self._wishes, looks=self._looks)
            if found.get("error", {}).get("status") not in _PASSING:
                break
            await asyncio.sleep(pause_s)
        return found

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
