"""One SQLite file, used by one thread; tables that know their version."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from service.errors import Draining, NotReady, ServiceError, SpoolFull

T = TypeVar("T")

_APPLICATION = 0x4D617279  # "Mary"
_VERSION = 1
_TABLES = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    wish TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    progress REAL NOT NULL DEFAULT 0,
    looked_s REAL NOT NULL DEFAULT 0,
    segments INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    fault TEXT,
    subject TEXT,
    windows INTEGER NOT NULL DEFAULT 0,
    opened TEXT,
    opened_total BLOB,
    total BLOB,
    outcome TEXT,
    probabilities BLOB
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE INDEX jobs_by_owner ON jobs (owner, number);
CREATE TABLE segments (
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    start_s REAL NOT NULL,
    end_s REAL NOT NULL,
    windows INTEGER NOT NULL,
    class_ids BLOB NOT NULL,
    probabilities BLOB NOT NULL,
    PRIMARY KEY (job, position)
) STRICT, WITHOUT ROWID;
"""


class Database:
    """`await open()`, then `run` transactions, then `await close()`. One connection, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def open(self) -> None:
        """Open the file, or make it, and check that it is whole. Raises NotReady, with what is wrong."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        except sqlite3.Error as error:
            raise NotReady(
                f"{self._path} cannot be used ({error}); move it away, or name another folder by MAREY_JOBS"
            ) from error

    async def close(self) -> None:
        """Let what runs end. A second time does nothing."""
        self._closed = True
        await asyncio.to_thread(self._thread.shutdown)
        if self._connection is not None:
            await asyncio.to_thread(self._connection.close)  # which writes what is still in the log
            self._connection = None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work(connection)` in one transaction: written to the disk when this returns, or not at all.

        Raises SpoolFull or ServiceError where the disk fails. Cancelling the caller does not undo it.
        """
        if self._closed:
            raise Draining("the service is stopping; send the request again", retry_after_s=1)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise SpoolFull(
                    f"the disk of {self._path.parent} is full; remove something, or name another folder by MAREY_JOBS",
                    retry_after_s=60,
                ) from error
            raise ServiceError(f"{self._path} cannot be used ({error}); see to its disk") from error

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        assert self._connection is not None
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            return work(connection)

    def _open(self) -> None:
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # what was answered with 202 outlives a power cut
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA journal_size_limit = 16777216")
            _check(connection)
            _make_tables(connection)
        except BaseException:
            connection.close()
            raise
        connection.row_factory = sqlite3.Row
        self._connection = connection


def _check(connection: sqlite3.Connection) -> None:
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(f"it is damaged: {found}")


def _make_tables(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if version == 0 and application == 0:
        connection.executescript(
            f"BEGIN; {_TABLES} PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION}; COMMIT;"
        )
    elif application != _APPLICATION:
        raise sqlite3.DatabaseError("it is another program's")
    elif version != _VERSION:
        raise sqlite3.DatabaseError(f"its tables are of version {version}, this service knows {_VERSION}")
