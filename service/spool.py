"""Where uploads lie while they are worked on: small ones in memory, larger ones in files of a private folder.

# Note [Whose folder it is]
Each service makes a folder of its own, and holds a lock on it that the kernel drops when the process ends, however it
ends. So whoever can take the lock of a folder has found one that nobody uses: that is how what a killed service left is
told from what another one works on, across containers too, where a process number would say nothing.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from service.errors import ServiceError, SpoolFull, TooLarge

log = logging.getLogger(__name__)

# An upload up to this size stays in memory, and a larger one is written in pieces of it.
IN_MEMORY = 2**20
RETRY_AFTER_S = 5.0
_PREFIX = "marey-spool-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(eq=False, slots=True)
class Upload:
    """One whole file: `source` is its bytes, or a file that is removed on `close`; `size` in bytes."""

    source: bytes | Path
    size: int
    _remove: Callable[[], None] = field(default=lambda: None, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget the bytes, remove the file. A second time does nothing."""
        self._remove()
        self._remove = lambda: None

    async def save(self, path: Path) -> None:
        """Write the file to `path`, which takes it over; by renaming it where that can be done. Closes the upload."""
        await asyncio.to_thread(self._save, path)
        self.close()

    def _save(self, path: Path) -> None:
        if isinstance(self.source, bytes):
            path.write_bytes(self.source)
        else:
            shutil.move(self.source, path)


class Spool:
    """`open` before use, `close` after. The files of all uploads together hold at most `max_bytes`."""

    def __init__(self, folder: Path | None = None, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._base = folder or Path(tempfile.gettempdir())
        self._folder: Path | None = None
        self._lock = -1
        self._used = 0
        self._counting = threading.Lock()
        self._numbers = itertools.count()
        # Threads of its own: a disk that hangs must not hold up whatever else waits for one.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="spool")

    @property
    def used_bytes(self) -> int:
        return self._used

    def open(self) -> None:
        """Make the private folder, remove those that killed services left. Raises ServiceError where it cannot be made."""
        try:
            self._base.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self._base)
            self._folder, self._lock = _private_folder(self._base)
        except OSError as error:
            raise ServiceError(
                f"no folder for uploads can be made in {self._base} ({error.strerror}); name another by MAREY_SPOOL"
            ) from error

    def close(self) -> None:
        """Remove the folder with all that is in it, once what is being written is written."""
        self._threads.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._folder = None

    def draft(self, *, max_bytes: int) -> Draft:
        """A file of at most `max_bytes` that is about to arrive."""
        return Draft(self, max_bytes)

    def check_room(self, size: int) -> None:
        """Raise SpoolFull where a file of `size` bytes or more has no room now, TooLarge where it never has."""
        if size > max(IN_MEMORY, self.max_bytes):
            raise TooLarge(
                f"the file has {size} bytes or more, and the disk may hold {self.max_bytes} of uploads; "
                "send a smaller one, or raise MAREY_MAX_SPOOL_BYTES"
            )
        if size > IN_MEMORY and self._used + size > self.max_bytes:
            raise self._full()

    def reserve(self, size: int) -> None:
        """Count `size` bytes as used, or raise SpoolFull."""
        with self._counting:
            if self._used + size > self.max_bytes:
                raise self._full()
            self._used += size

    def create(self) -> tuple[Path, BinaryIO]:
        if self._folder is None:
            raise OSError(errno.ENOENT, "the folder for uploads is not open")
        path = self._folder / str(next(self._numbers))
        return path, path.open("xb", buffering=0)

    def discard(self, path: Path | None, size: int) -> None:
        """Remove the file, which may take the disk a while, and then count its bytes as free. From any thread."""
        try:
            self._threads.submit(self._remove, path, size)
        except RuntimeError:  # closed, and the folder removed with all in it
            self._remove(path, size)

    def _remove(self, path: Path | None, size: int) -> None:
        if path is not None:
            path.unlink(missing_ok=True)
        with self._counting:
            self._used -= size

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Run `work` in a thread that may wait for the disk."""
        return self._threads.submit(work)

    def _full(self) -> SpoolFull:
        return SpoolFull(
            f"uploads in progress hold {self._used} of the {self.max_bytes} bytes that the disk may hold of them; "
            "retry later, send a smaller file, or raise MAREY_MAX_SPOOL_BYTES",
            retry_after_s=RETRY_AFTER_S,
        )


class Draft:
    """A file while it arrives: `write` its pieces, then `finish`. On leaving the context what was not finished is removed."""

    def __init__(self, spool: Spool, max_bytes: int) -> None:
        self.size = 0
        self._spool = spool
        self._max_bytes = max_bytes
        self._held = bytearray()
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._reserved = 0
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writing is not None:
            # Behind a write that may still run, in its thread: whoever waited for it has been cancelled.
            self._writing.add_done_callback(lambda _: self._drop())
            self._writing = None

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add `data`. Raises TooLarge, SpoolFull, or ServiceError where the disk fails."""
        self.size += len(data)
        if self.size > self._max_bytes:
            raise too_large(self._max_bytes)
        self._held += data
        if len(self._held) > IN_MEMORY:
            await self._flush()

    async def finish(self) -> Upload:
        """The whole file, which is now the caller's to close. Raises as `write`."""
        if self._writing is None:
            return Upload(bytes(self._held), self.size)
        await self._flush()
        self._writing = None
        assert self._file is not None
        assert self._path is not None
        self._file.close()
        return Upload(self._path, self.size, partial(self._spool.discard, self._path, self._reserved))

    async def _flush(self) -> None:
        piece, self._held = self._held, bytearray()
        if self.size > self._spool.max_bytes:
            self._spool.check_room(self.size)  # retrying later would not help it
        self._spool.reserve(len(piece))
        self._reserved += len(piece)
        self._writing = self._spool.submit(partial(self._append, piece))
        try:
            await asyncio.shield(asyncio.wrap_future(self._writing))
        except OSError as error:
            if error.errno in _FULL:
                raise SpoolFull(
                    f"the disk that uploads are written to is full ({error.strerror}); retry later, or name another by MAREY_SPOOL",
                    retry_after_s=RETRY_AFTER_S,
                ) from error
            raise ServiceError(
                f"the upload could not be written to disk ({error.strerror}); try again, or name another by MAREY_SPOOL"
            ) from error

    def _append(self, piece: bytearray) -> None:
        if self._file is None:
            self._path, self._file = self._spool.create()
        left = memoryview(piece)
        while left:
            left = left[self._file.write(left) :]

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
        self._spool.discard(self._path, self._reserved)


def too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the file has more than the {limit} bytes allowed; send a smaller one, or raise MAREY_MAX_UPLOAD_BYTES"
    )


def _private_folder(base: Path) -> tuple[Path, int]:
    """A new folder that only we may enter, and the lock that we hold on it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        lock = _locked(folder)
        # Between the two somebody may have taken it for a leftover.
        if lock is not None:
            if folder.is_dir():
                return folder, lock
            os.close(lock)


def _remove_leftovers(base: Path) -> None:
    for folder in base.glob(f"{_PREFIX}*"):
        lock = _locked(folder)
        if lock is not None:
            log.warning("%s was left by a service that was killed; it is removed", folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """A lock on a folder of this user that nobody else holds; None where it is another's, held, or gone."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(handle).st_uid == os.geteuid():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
    except OSError:
        pass
    os.close(handle)
    return None
