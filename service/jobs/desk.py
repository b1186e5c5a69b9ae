"""Where jobs are handed in and asked about: all that the API knows of them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path

from service.errors import NoJobs, NotReady, ServiceError, SpoolFull
from service.jobs.database import Database
from service.jobs.folder import Folder, default_folder
from service.jobs.job import Job, Wish
from service.jobs.runner import Runner
from service.jobs.store import Store, refuse_if_full
from service.media.limits import Limits
from service.registry import Registry
from service.settings import Settings
from service.spool import Upload

logger = logging.getLogger(__name__)

# A frame rate that no video worth looking at exceeds; it bounds the frames of the longest job.
_MAX_FPS = 120


class Desk:
    """`await open()`, then `start` once models are there; `await close()`. Where it cannot open, `reason` says why.

    `elsewhere`: why it never opens, where another service keeps the jobs.
    """

    def __init__(self, settings: Settings, registry: Registry, *, elsewhere: str | None = None) -> None:
        self._elsewhere = elsewhere
        self._most = settings.max_jobs
        self._decoders = settings.decode_workers
        self._filing: set[asyncio.Future[Job]] = set()
        self._folder = Folder(settings.jobs or _default())
        self._database = Database(self._folder.database)
        self.store = Store(self._database)
        self.limits = Limits(
            max_pixels=settings.max_pixels,
            max_duration_s=settings.max_job_duration_s,
            max_decoded_frames=int(settings.max_job_duration_s * _MAX_FPS),
        )
        self._runner = Runner(
            store=self.store,
            folder=self._folder,
            registry=registry,
            limits=self.limits,
            keep_s=settings.keep_jobs_s,
            at_once=2 if settings.decode_workers >= 8 else 1,
        )
        self._closed: NotReady | NoJobs | None = NotReady(
            "the jobs are still being looked up; retry in a moment", retry_after_s=1
        )

    async def open(self) -> None:
        """Take the folder, and find the jobs in it. Does not raise: a service that keeps no jobs serves everything else."""
        if self._elsewhere is not None:
            self._closed = NoJobs(self._elsewhere)
            return
        if self._most == 0:
            self._closed = NoJobs(
                "this service takes no jobs; send the video to POST /classify/video, or raise MAREY_MAX_JOBS above 0 where it runs"
            )
            return
        try:
            await asyncio.to_thread(self._folder.open)
            await self._database.open()
            waiting = await self.store.recover()
            await asyncio.to_thread(self._folder.remove_all_but, waiting)
        except (ServiceError, OSError) as error:
            self._closed = error if isinstance(error, NotReady) else NotReady(f"jobs cannot be kept: {error}")
            logger.warning("no jobs are taken: %s", self._closed)
            await self._shut()
            return
        self._closed = None
        if waiting:
            logger.info("%d jobs wait from an earlier run", len(waiting))

    def start(self) -> None:
        """Begin to work on what waits."""
        if self._closed is not None:
            return
        if self._decoders < 2:
            logger.warning("a job keeps the only decoder until it ends, and requests wait; set MAREY_DECODE_WORKERS=2")
        self._runner.start()

    async def close(self) -> None:
        """Put back what runs, and let go of the folder."""
        self._closed = NotReady("the service is stopping; send the request to another instance", retry_after_s=1)
        await asyncio.gather(*self._filing, return_exceptions=True)
        await self._runner.close()
        await self._shut()

    def refuse_unless_open(self) -> None:
        """Raise NotReady or NoJobs, with the reason, where jobs can be neither taken nor asked about."""
        if self._closed is not None:
            raise type(self._closed)(self._closed.detail, retry_after_s=self._closed.retry_after_s)
        if self._runner.broken:
            raise NotReady("nothing works on jobs any more; see the service's log, and restart it")

    @property
    def reason(self) -> str | None:
        """Why jobs can be neither taken nor asked about; None where they can."""
        try:
            self.refuse_unless_open()
        except (NotReady, NoJobs) as error:
            return str(error)
        return None

    def refuse_unless_room(self) -> None:
        """Raise NotReady, NoJobs or Overloaded where a new job would be refused: asked before its file is read."""
        self.refuse_unless_open()
        refuse_if_full(self.store.pending, most=self._most)

    async def take_in(self, upload: Upload, *, owner: str, wish: Wish) -> Job:
        """A new job over the file, which is kept: once this returns, no end of the process loses it.

        Raises as `refuse_unless_room`; SpoolFull or ServiceError where the disk fails.
        """
        self.refuse_unless_room()
        filing = asyncio.ensure_future(self._file(upload, owner=owner, wish=wish))
        self._filing.add(filing)
        filing.add_done_callback(self._filing.discard)
        return await asyncio.shield(filing)  # whoever hangs up now leaves a whole job, and no half of one

    async def _file(self, upload: Upload, *, owner: str, wish: Wish) -> Job:
        job = secrets.token_hex(16)  # nobody can guess another's
        try:
            await upload.save(self._folder.draft(job))
            await asyncio.to_thread(self._folder.keep, job)
            taken = await self.store.add(job, owner=owner, wish=wish, size=upload.size, most=self._most)
        except OSError as error:
            await asyncio.to_thread(self._folder.remove, job)
            raise SpoolFull(
                f"the file cannot be written to the folder of jobs ({error.strerror}); retry later, or name another by MAREY_JOBS",
                retry_after_s=60,
            ) from error
        except ServiceError:
            await asyncio.to_thread(self._folder.remove, job)
            raise
        self._runner.wake()
        return taken

    async def end(self, job: str, *, owner: str | None) -> Job | None:
        """Cancel a job with work left to do, and keep what it found; remove one that has ended, and give None.

        Raises UnknownJob, or NotReady.
        """
        self.refuse_unless_open()
        found = await self.store.get(job, owner=owner)
        if found.ended:
            await self.store.remove(found.number)
            return None
        found = await self.store.cancel(job, owner=owner)
        await self._runner.drop(job)
        await asyncio.to_thread(self._folder.remove, job)
        return found

    async def _shut(self) -> None:
        await self._database.close()
        self._folder.close()


def _default() -> Path:
    try:
        return default_folder()
    except RuntimeError:  # no home: `open` will say that this cannot be made
        return Path("/nonexistent/marey/jobs")
