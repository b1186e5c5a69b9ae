"""Where jobs live: one folder, one service at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection
from pathlib import Path

from service.errors import NotReady


def default_folder() -> Path:
    """As the XDG base directory specification places what a program keeps between its runs."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "marey" / "jobs"


class Folder:
    """`open` before use: it is nobody else's until `close`. The kernel gives it up when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "jobs.sqlite3"
        self._files = path / "files"
        self._lock = -1

    def open(self) -> None:
        """Make the folder, readable for its owner only, and take it. Raises NotReady where it cannot be had, and why."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._files.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home to be found
            why = error.strerror if isinstance(error, OSError) else error
            raise NotReady(f"jobs cannot be kept in {self.path} ({why}); name another folder by MAREY_JOBS") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise NotReady(
                f"the jobs in {self.path} are another service's, one that runs; give each its own by MAREY_JOBS"
            ) from error
        self._lock = handle

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def file(self, job: str) -> Path:
        """Where the video of the job with this id lies."""
        return self._files / job

    def draft(self, job: str) -> Path:
        """Where it lies while it is being written."""
        return self._files / f"{job}.part"

    def keep(self, job: str) -> None:
        """Make the draft the job's file, on the disk and not only on its way there."""
        for path, flags in ((self.draft(job), os.O_RDONLY), (self._files, os.O_RDONLY | os.O_DIRECTORY)):
            handle = os.open(path, flags)
            try:
                os.fsync(handle)
                if path != self._files:
                    path.rename(self.file(job))
            finally:
                os.close(handle)

    def remove(self, job: str) -> None:
        self.file(job).unlink(missing_ok=True)
        self.draft(job).unlink(missing_ok=True)

    def remove_all_but(self, jobs: Collection[str]) -> None:
        """Remove the files of jobs that have ended, and drafts: what a service that was killed did not come to."""
        for path in self._files.iterdir():
            if path.name not in jobs:
                path.unlink(missing_ok=True)
