"""What the database keeps, and what it refuses: real files, one thread, transactions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.errors import NotReady, Overloaded, SpoolFull, UnknownJob
from service.jobs.database import Database
from service.jobs.job import Checkpoint, Fault, Job, Outcome, Part, Subject, Wish
from service.jobs.store import Store
from service.media.frames import VideoInfo, Windows
from service.segments import Opened, Segment

WISH = Wish("color", "1.0.0", Windows(4.0, 2.0, 8), merge=True, top_k=2, classes=2, request_id="r")
SUBJECT = Subject("openvino", None, "int8", "bf16", "a CPU", ("red", "green", "blü"), False, ("a" * 64,))
CHECKPOINT = Checkpoint(7, Opened(2.5, 9.0, 3, (1,), np.array([0.1, 2.8, 0.1])), np.array([1.0, 5.5, 0.5]))
SEGMENTS = tuple(Segment(i * 2.0, i * 2.0 + 2, 1, np.roll(np.array([0.7, 0.2, 0.1], np.float32), i)) for i in range(5))
OUTCOME = Outcome(
    VideoInfo(10.0, 25.0, 64, 48, "h264", 250, 0), 2.0, 4, ("odd",), np.array([0.5, 0.3, 0.2], np.float32)
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    database = Database(tmp_path / "jobs.sqlite3")
    await database.open()
    yield Store(database)
    await database.close()


async def added(store: Store, name: str, *, owner: str = "me") -> Job:
    return await store.add(name, owner=owner, wish=WISH, size=9, most=10)


async def begun(store: Store, name: str = "a") -> Job:
    await added(store, name)
    job = await store.take()
    assert job is not None
    await store.begin(job.number, subject=SUBJECT)
    return job


async def test_jobs_are_taken_the_oldest_first_and_each_once(store: Store) -> None:
    for name in "abc":
        await added(store, name)
    taken = [await store.take() for _ in range(4)]
    assert [job and (job.id, job.state, job.attempts) for job in taken] == [
        ("a", "running", 1), ("b", "running", 1), ("c", "running", 1), None,
    ]  # fmt: skip
    assert store.counts["running"] == store.pending == 3


async def test_only_jobs_for_models_that_are_served_are_taken(store: Store) -> None:
    await added(store, "a")
    await store.add("b", owner="me", wish=replace(WISH, model="late"), size=9, most=10)
    assert await store.take(served=()) is None
    assert await store.take(served={"late:2.0.0", "other:1.0.0"}) is None
    taken = await store.take(served={"late:1.0.0"})
    assert taken is not None
    assert taken.id == "b"


async def test_a_job_put_back_waits_in_its_old_place_and_was_not_tried(store: Store) -> None:
    first = await begun(store)
    await added(store, "b")
    await store.put_back(first.number)
    again = await store.take()
    assert again is not None
    assert (again.id, again.attempts, again.started) == ("a", 1, first.started)


async def test_after_a_kill_what_ran_waits_and_its_attempt_counts(store: Store) -> None:
    await begun(store)
    assert await store.recover() == {"a"}
    again = await store.take()
    assert again is not None
    assert again.attempts == 2
    await store.save(again, Part((), CHECKPOINT, 0.1, 1.0))
    await store.recover()
    later = await store.take()
    assert later is not None
    assert later.attempts == 2, "it had got on in between"


async def test_work_goes_on_where_it_stood_with_the_same_model_and_begins_anew_with_another(store: Store) -> None:
    job = await begun(store)
    assert await store.save(job, Part(SEGMENTS[:3], CHECKPOINT, 0.4, 8.0))
    found = await store.begin(job.number, subject=SUBJECT)
    assert found.windows == 7
    assert found.opened is not None
    assert CHECKPOINT.opened is not None
    assert CHECKPOINT.total is not None
    assert (found.opened.start_s, found.opened.end_s, found.opened.windows, found.opened.said) == (2.5, 9.0, 3, (1,))
    assert found.opened.total.tolist() == CHECKPOINT.opened.total.tolist()
    assert found.total is not None
    assert found.total.tolist() == CHECKPOINT.total.tolist()
    now = await store.get("a", owner="me")
    assert (now.segments, now.progress, now.looked_s) == (3, 0.4, 8.0)

    anew = await store.begin(job.number, subject=replace(SUBJECT, precision="fp32"))
    assert (anew.windows, anew.opened, anew.total) == (0, None, None)
    assert await store.segments(job.number, offset=0, limit=9) == []
    now = await store.get("a", owner="me")
    assert (now.segments, now.progress, now.looked_s) == (0, 0, 0)


async def test_segments_are_kept_in_order_with_as_many_classes_as_asked_for(store: Store) -> None:
    job = await begun(store)
    await store.save(job, Part(SEGMENTS[:2], CHECKPOINT, 0.1, 4.0))
    await store.save(job, Part(SEGMENTS[2:], CHECKPOINT, 0.2, 8.0), outcome=OUTCOME)
    found = await store.segments(job.number, offset=1, limit=3)
    assert [(each.start_s, each.end_s, each.windows) for each in found] == [(2, 4, 1), (4, 6, 1), (6, 8, 1)]
    assert [each.class_ids for each in found] == [(1, 2), (2, 0), (0, 1)]
    assert found[0].probabilities == pytest.approx((0.7, 0.2))
    done = await store.get("a", owner=None)
    assert (done.state, done.progress, done.segments) == ("done", 1, 5)
    outcome = await store.outcome(job.number)
    assert replace(outcome, probabilities=OUTCOME.probabilities) == OUTCOME
    assert outcome.probabilities.tolist() == OUTCOME.probabilities.tolist()
    assert await store.subject(job.number) == SUBJECT


async def test_nothing_is_written_down_of_a_job_that_runs_no_longer(store: Store) -> None:
    job = await begun(store)
    assert (await store.cancel("a", owner="me")).state == "cancelled"
    assert not await store.save(job, Part(SEGMENTS, CHECKPOINT, 0.9, 9.0), outcome=OUTCOME)
    await store.fail(job.number, Fault("internal", "", 500, ""))
    await store.put_back(job.number)
    now = await store.get("a", owner="me")
    assert (now.state, now.segments, now.fault) == ("cancelled", 0, None)
    assert (await store.cancel("a", owner="me")) == now, "a second time changes nothing"


async def test_another_owners_job_is_not_there(store: Store) -> None:
    await added(store, "a", owner="me")
    await added(store, "b", owner="you")
    for name, owner in (("a", "you"), ("c", None)):
        with pytest.raises(UnknownJob, match=f"there is no job '{name}'"):
            await store.get(name, owner=owner)
        with pytest.raises(UnknownJob):
            await store.cancel(name, owner=owner)
    for owner, names in (("me", ["a"]), ("you", ["b"]), (None, ["b", "a"])):
        assert [job.id for job in await store.page(owner=owner, state=None, before=None, limit=9)] == names


async def test_a_full_line_takes_no_more(store: Store) -> None:
    for name in "ab":
        await store.add(name, owner="me", wish=WISH, size=1, most=2)
    with pytest.raises(Overloaded, match="2 jobs wait or run, the limit is 2"):
        await store.add("c", owner="me", wish=WISH, size=1, most=2)
    await store.cancel("a", owner=None)
    await store.add("c", owner="me", wish=WISH, size=1, most=2)


async def test_only_jobs_that_ended_long_ago_expire_and_their_segments_go_with_them(
    store: Store, tmp_path: Path
) -> None:
    job = await begun(store)
    await store.save(job, Part(SEGMENTS, CHECKPOINT, 0.2, 8.0), outcome=OUTCOME)
    await added(store, "b")
    assert await store.expire(finished_before=time.time() - 60) == 0
    assert await store.expire(finished_before=time.time() + 60) == 1
    assert [each.id for each in await store.page(owner=None, state=None, before=None, limit=9)] == ["b"]
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as connection:
        assert connection.execute("SELECT count(*) FROM segments").fetchone() == (0,)
    connection.close()


async def test_a_full_disk_is_said_to_be_full_and_nothing_is_half_written(store: Store, tmp_path: Path) -> None:
    database = store._database
    await added(store, "a")
    await database.run(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone())
    with pytest.raises(SpoolFull, match=f"the disk of {tmp_path} is full"):
        await store.add("b", owner="x" * 999_999, wish=WISH, size=1, most=9)
    await database.run(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
    assert [job.id for job in await store.page(owner=None, state=None, before=None, limit=9)] == ["a"]
    await added(store, "b")


@pytest.mark.parametrize(
    ("spoil", "saying"),
    [
        (lambda path: path.write_bytes(b"no database at all" * 99), "file is not a database"),
        (lambda path: _run(path, "PRAGMA user_version = 99"), "its tables are of version 99, this service knows 1"),
        (lambda path: _run(path, "PRAGMA application_id = 7"), "it is another program's"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4096] + b"\xff" * 4096), "damaged|malformed"),
    ],
)
async def test_a_file_that_is_not_ours_or_not_whole_is_refused_and_left_alone(tmp_path: Path, spoil, saying) -> None:
    path = tmp_path / "jobs.sqlite3"
    database = Database(path)
    await database.open()
    await database.close()
    spoil(path)
    before = path.read_bytes()
    again = Database(path)
    with pytest.raises(NotReady, match=saying):
        await again.open()
    await again.close()
    assert path.read_bytes() == before


def _run(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
