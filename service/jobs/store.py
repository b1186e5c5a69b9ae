"""The jobs of a service, as its database keeps them: every change is one transaction, and on the disk when it returns."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection
from typing import TypeVar

from service.errors import Overloaded, UnknownJob
from service.jobs.database import Database
from service.jobs.job import PENDING, STATES, Checkpoint, Fault, Job, Outcome, Part, State, Subject, Told, Wish
from service.jobs.rows import (
    COLUMNS,
    checkpoint_of,
    checkpoint_values,
    job_of,
    outcome_of,
    outcome_text,
    segment_values,
    subject_of,
    text_of,
    told_of,
)

T = TypeVar("T")

_NOTHING_FOUND = Part((), Checkpoint(), 0.0, 0.0)


class Store:
    """`owner` None sees everybody's jobs; else a job of another is UnknownJob, as one that is not there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # As of the last change, for those who cannot wait for a thread.
        self.counts: dict[State, int] = dict.fromkeys(STATES, 0)

    @property
    def pending(self) -> int:
        return sum(self.counts[state] for state in PENDING)

    async def recover(self) -> set[str]:
        """Put back what ran when the service last ended; gives the ids of all jobs with work left to do."""

        def work(db: sqlite3.Connection) -> set[str]:
            db.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")
            return {row["id"] for row in db.execute("SELECT id FROM jobs WHERE state = 'queued'")}

        return await self._change(work)

    async def add(self, job: str, *, owner: str, wish: Wish, size: int, most: int) -> Job:
        """A new job that waits. Raises Overloaded where `most` have work left to do."""

        def work(db: sqlite3.Connection) -> Job:
            (pending,) = db.execute("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')").fetchone()
            refuse_if_full(pending, most=most)
            db.execute(
                "INSERT INTO jobs (id, owner, state, wish, bytes, created) VALUES (?, ?, 'queued', ?, ?, ?)",
                (job, owner, text_of(wish), size, time.time()),
            )
            return _find(db, job, owner=None)

        return await self._change(work)

    async def get(self, job: str, *, owner: str | None) -> Job:
        """Raises UnknownJob."""
        return await self._database.run(lambda db: _find(db, job, owner=owner))

    async def page(self, *, owner: str | None, state: State | None, before: int | None, limit: int) -> list[Job]:
        """Up to `limit` jobs, the newest first, of those with numbers below `before`."""
        rules: list[tuple[str, object]] = [("1 = ?", 1)]
        rules += [("owner = ?", owner)] if owner is not None else []
        rules += [("state = ?", state)] if state is not None else []
        rules += [("number < ?", before)] if before is not None else []
        query = (
            f"SELECT {COLUMNS} FROM jobs WHERE {' AND '.join(rule for rule, _ in rules)} ORDER BY number DESC LIMIT ?"  # noqa: S608  # of our own words
        )
        values = (*(value for _, value in rules), limit)
        return await self._database.run(lambda db: [job_of(row) for row in db.execute(query, values)])

    async def segments(self, number: int, *, offset: int, limit: int) -> list[Told]:
        """In time's order; those found so far while the job runs."""
        query = "SELECT * FROM segments WHERE job = ? AND position >= ? ORDER BY position LIMIT ?"
        return await self._database.run(lambda db: [told_of(row) for row in db.execute(query, (number, offset, limit))])

    async def subject(self, number: int) -> Subject | None:
        """What looks at the video; None before it has begun."""

        def work(db: sqlite3.Connection) -> Subject | None:
            row = db.execute("SELECT subject FROM jobs WHERE number = ?", (number,)).fetchone()
            return subject_of(row["subject"]) if row is not None and row["subject"] else None

        return await self._database.run(work)

    async def outcome(self, number: int) -> Outcome:
        """Of a job that is done."""

        def work(db: sqlite3.Connection) -> Outcome:
            return outcome_of(
                db.execute("SELECT outcome, probabilities FROM jobs WHERE number = ?", (number,)).fetchone()
            )

        return await self._database.run(work)

    async def take(self, *, served: Collection[str] | None = None) -> Job | None:
        """The oldest job that waits, running from now on; None where none does.

        `served`: only of those for these models, each as `NAME:VERSION`.
        """
        which, values = "state = 'queued'", []
        if served is not None:
            which += (
                " AND json_extract(wish, '$.model') || ':' || json_extract(wish, '$.version')"
                " IN (SELECT value FROM json_each(?))"
            )
            values.append(json.dumps(sorted(served)))
        query = f"SELECT id, number FROM jobs WHERE {which} ORDER BY number LIMIT 1"  # noqa: S608  # of our own words

        def work(db: sqlite3.Connection) -> Job | None:
            row = db.execute(query, values).fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, started = coalesce(started, ?) WHERE number = ?",
                (time.time(), row["number"]),
            )
            return _find(db, row["id"], owner=None)

        return await self._change(work)

    async def begin(self, number: int, *, subject: Subject) -> Checkpoint:
        """Where the work goes on: from where it stood if `subject` is what it was, else from the start."""

        def work(db: sqlite3.Connection) -> Checkpoint:
            row = db.execute("SELECT * FROM jobs WHERE number = ?", (number,)).fetchone()
            if row is None or row["subject"] == text_of(subject):
                return Checkpoint() if row is None else checkpoint_of(row)
            db.execute("DELETE FROM segments WHERE job = ?", (number,))
            db.execute("UPDATE jobs SET subject = ?, segments = 0 WHERE number = ?", (text_of(subject), number))
            _write(db, number, _NOTHING_FOUND, classes=0)
            return Checkpoint()

        return await self._database.run(work)

    async def save(self, job: Job, part: Part, *, outcome: Outcome | None = None) -> bool:
        """Write down what was found; with `outcome` the job is done. False, and nothing written, if it runs no longer."""

        def work(db: sqlite3.Connection) -> bool:
            if not _running(db, job.number):
                return False
            _write(db, job.number, part, classes=job.wish.classes)
            db.execute("UPDATE jobs SET attempts = 1 WHERE number = ?", (job.number,))  # it gets on
            if outcome is not None:
                db.execute(
                    "UPDATE jobs SET outcome = ?, probabilities = ?, progress = 1 WHERE number = ?",
                    (outcome_text(outcome), outcome.probabilities.tobytes(), job.number),
                )
                _end(db, job.number, "done")
            return True

        return await self._change(work)

    async def fail(self, number: int, fault: Fault) -> None:
        """Unless it runs no longer."""

        def work(db: sqlite3.Connection) -> None:
            if _running(db, number):
                db.execute("UPDATE jobs SET fault = ? WHERE number = ?", (text_of(fault), number))
                _end(db, number, "failed")

        await self._change(work)

    async def put_back(self, number: int) -> None:
        """Let a job that runs wait again, with what it has found; the attempt does not count."""
        query = "UPDATE jobs SET state = 'queued', attempts = attempts - 1 WHERE number = ? AND state = 'running'"
        await self._change(lambda db: db.execute(query, (number,)).rowcount)

    async def cancel(self, job: str, *, owner: str | None) -> Job:
        """End the job if it has work left to do. Raises UnknownJob."""

        def work(db: sqlite3.Connection) -> Job:
            found = _find(db, job, owner=owner)
            if not found.ended:
                _end(db, found.number, "cancelled")
            return _find(db, job, owner=owner)

        return await self._change(work)

    async def remove(self, number: int) -> None:
        """With all that was found."""
        await self._change(lambda db: db.execute("DELETE FROM jobs WHERE number = ?", (number,)).rowcount)

    async def expire(self, *, finished_before: float) -> int:
        """Remove jobs that ended before that time; gives how many."""
        query = "DELETE FROM jobs WHERE finished < ?"
        return await self._change(lambda db: db.execute(query, (finished_before,)).rowcount)

    async def _change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def counted(db: sqlite3.Connection) -> tuple[T, dict[State, int]]:
            result = work(db)
            found = db.execute("SELECT state, count(*) AS jobs FROM jobs GROUP BY state").fetchall()
            return result, {row["state"]: row["jobs"] for row in found}

        result, counts = await self._database.run(counted)
        self.counts.update({state: counts.get(state, 0) for state in STATES})
        return result


def refuse_if_full(pending: int, *, most: int) -> None:
    """Raise Overloaded where `most` jobs or more have work left to do."""
    if pending >= most:
        raise Overloaded(
            f"{pending} jobs wait or run, the limit is {most}; retry later, cancel some, or raise MAREY_MAX_JOBS",
            retry_after_s=60,
        )


def _find(db: sqlite3.Connection, job: str, *, owner: str | None) -> Job:
    row = db.execute(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (job,)).fetchone()  # noqa: S608  # our own columns
    if row is None or owner not in (None, row["owner"]):
        raise UnknownJob(f"there is no job {job[:64]!r}, or no longer; GET /jobs lists those that are")
    return job_of(row)


def _running(db: sqlite3.Connection, number: int) -> bool:
    return db.execute("SELECT 1 FROM jobs WHERE number = ? AND state = 'running'", (number,)).fetchone() is not None


def _end(db: sqlite3.Connection, number: int, state: State) -> None:
    """What it takes to go on is no longer needed."""
    db.execute(
        "UPDATE jobs SET state = ?, finished = ?, opened = NULL, opened_total = NULL, total = NULL WHERE number = ?",
        (state, time.time(), number),
    )


def _write(db: sqlite3.Connection, number: int, part: Part, *, classes: int) -> None:
    (first,) = db.execute("SELECT segments FROM jobs WHERE number = ?", (number,)).fetchone()
    rows = [
        (number, first + position, *segment_values(segment, classes=classes))
        for position, segment in enumerate(part.segments)
    ]
    db.executemany("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    values = checkpoint_values(part.checkpoint)
    values |= {"progress": part.progress, "looked_s": part.looked_s, "segments": first + len(rows), "number": number}
    db.execute(
        "UPDATE jobs SET windows = :windows, opened = :opened, opened_total = :opened_total, total = :total, "
        "progress = :progress, looked_s = :looked_s, segments = :segments WHERE number = :number",
        values,
    )
