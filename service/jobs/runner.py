"""Takes jobs from the store, the oldest first, and sees each to its end; removes those whose time is over.

# Note [A model that is away]
A model can be unloaded, its bundle not be mounted yet after a restart, or an older version be gone. Its jobs wait for it: they are
not taken, those behind them are, and one that was taken in that moment is put back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TypeVar

from service.errors import DeviceLost, MareyError, ServiceError
from service.jobs.folder import Folder
from service.jobs.job import Fault, Job
from service.jobs.store import Store
from service.jobs.work import Work
from service.media.limits import Limits
from service.registry import Registry

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Times that a job may take the whole service down with it before it is held to be the reason.
MAX_ATTEMPTS = 3
_RETRY_S = 10.0
_LOOK_S = 2.0  # from one look at which models are served to the next, where no job can be taken


class Runner:
    """`start`, then `wake` for each new job; `close` puts back what runs."""

    def __init__(
        self, *, store: Store, folder: Folder, registry: Registry, limits: Limits, keep_s: float, at_once: int
    ) -> None:
        self._store = store
        self._folder = folder
        self._registry = registry
        self._limits = limits
        self._keep_s = keep_s
        self._at_once = at_once
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._running: dict[str, asyncio.Task[None]] = {}

    @property
    def broken(self) -> bool:
        """Whether one of the loops has ended that never should."""
        return any(loop.done() for loop in self._loops)

    def start(self) -> None:
        loops = (*(self._serve() for _ in range(self._at_once)), self._tidy())
        self._loops = [asyncio.create_task(_logged(loop)) for loop in loops]

    def wake(self) -> None:
        """There is a job to take."""
        self._wake.set()

    async def close(self) -> None:
        """Put back what runs, with what it has found, and end."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    async def drop(self, job: str) -> None:
        """End the work on a job that was cancelled; returns once nothing is done about it any more."""
        task = self._running.get(job)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _serve(self) -> None:
        while True:
            job = await self._next()
            task = self._running[job.id] = asyncio.create_task(self._see_to(job))
            try:
                await asyncio.wait({task})
            finally:
                if not task.done():
                    task.cancel()
                    await asyncio.wait({task})
                del self._running[job.id]

    async def _next(self) -> Job:
        while True:
            self._wake.clear()  # before looking: what comes while this looks sets it again
            served = self._registry.answering("video")
            job = await self._insist(lambda: self._store.take(served=served))  # noqa: B023  # awaited here
            if job is not None:
                self._wake.set()  # another loop may have cleared it for nothing: let it look again
                return job
            while not self._wake.is_set() and self._registry.answering("video") == served:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._wake.wait()

    async def _see_to(self, job: Job) -> None:
        """Whatever comes of it is written down. Nothing is raised but what ends the service."""
        try:
            await self._work(job)
        except asyncio.CancelledError:
            await self._put_back(job)
            raise
        except (ServiceError, DeviceLost) as error:
            logger.warning("job %s waits again: %s", job.id, error)
            await self._insist(lambda: self._store.put_back(job.number))
            await asyncio.sleep(min(error.retry_after_s or _RETRY_S, _RETRY_S))
        except MareyError as error:
            if job.wish.name not in self._registry.answering("video"):  # see Note [A model that is away]
                logger.info("job %s waits until model %s is served: %s", job.id, job.wish.name, error)
                await self._insist(lambda: self._store.put_back(job.number))
            else:
                await self._fail(job, error)
        except Exception as error:  # one job must not end the others
            logger.exception("job %s failed unexpectedly", job.id)
            detail = f"an error in the service, not in the file ({type(error).__name__}); its log has the details"
            await self._fail(job, MareyError(detail))
        else:
            await asyncio.to_thread(self._folder.remove, job.id)

    async def _work(self, job: Job) -> None:
        if job.attempts > MAX_ATTEMPTS:
            raise MareyError(
                f"the service ended {MAX_ATTEMPTS} times while it worked on this job; it is not tried again"
            )
        file = self._folder.file(job.id)
        if not await asyncio.to_thread(file.is_file):
            raise MareyError("the job's file is gone; post it again")
        async with self._registry.lease(job.wish.name, task="video") as predictor:
            work = Work(
                job,
                store=self._store,
                predictor=predictor,
                decoders=self._registry.decoders,
                file=file,
                limits=self._limits,
            )
            await work.run()

    async def _put_back(self, job: Job) -> None:
        """A job that somebody cancelled does not run, and stays what it is."""
        try:
            await self._store.put_back(job.number)
        except ServiceError as error:
            logger.warning("job %s waits again only after the next start: %s", job.id, error)

    async def _fail(self, job: Job, error: MareyError) -> None:
        logger.info("job %s failed: %s", job.id, error)
        fault = Fault(error.code, error.title, error.status, error.detail)
        await self._insist(lambda: self._store.fail(job.number, fault))
        await asyncio.to_thread(self._folder.remove, job.id)

    async def _tidy(self) -> None:
        while True:
            gone = await self._insist(lambda: self._store.expire(finished_before=time.time() - self._keep_s))
            if gone:
                logger.info("%d jobs were removed: they ended more than %g s ago", gone, self._keep_s)
            await asyncio.sleep(min(600.0, max(1.0, self._keep_s / 10)))

    async def _insist(self, write: Callable[[], Awaitable[T]]) -> T:
        """A disk that fails may be mended; until then there is nothing to be done."""
        while True:
            try:
                return await write()
            except ServiceError as error:
                logger.error("jobs wait: %s", error)  # noqa: TRY400  # a sentence of ours says it all
                await asyncio.sleep(_RETRY_S)


async def _logged(loop: Coroutine[None, None, None]) -> None:
    try:
        await loop
    except Exception:
        logger.exception("no more jobs are worked on until the service is restarted")
        raise
