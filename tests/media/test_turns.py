"""Who gets the next worker, and how long that is said to take."""

import asyncio
from collections.abc import Iterable

import pytest

from service.errors import NotReady
from service.media.turns import Turns
from service.priority import Priority

pytestmark = pytest.mark.timeout(10)


def make(size: int, free: Iterable[str]) -> Turns[str]:
    turns: Turns[str] = Turns(size)
    for worker in free:
        turns.offer(worker)
    return turns


async def ask(turns: Turns[str], order: list[str], name: str, priority: Priority) -> asyncio.Task[str]:
    async def take() -> str:
        worker = await turns.take("image", priority)
        order.append(name)
        return worker

    task = asyncio.create_task(take())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_interactive_calls_go_before_bulk_ones_and_each_in_their_order() -> None:
    turns, order = make(1, "A"), []
    assert await turns.take("image", "interactive") == "A"
    tasks = [
        await ask(turns, order, name, "bulk" if name.startswith("bulk") else "interactive")
        for name in ("bulk 1", "one", "bulk 2", "two")
    ]
    assert turns.waiting == 4
    for _ in tasks:
        turns.ended("A", well=True)
        turns.offer("A")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order == ["one", "two", "bulk 1", "bulk 2"]
    assert turns.waiting == 0


async def test_bulk_never_has_all_workers_unless_there_is_but_one() -> None:
    turns, order = make(3, "ABC"), []
    await turns.take("image", "bulk")
    await turns.take("frames", "bulk")
    third = await ask(turns, order, "bulk", "bulk")
    assert not third.done()
    assert await turns.take("image", "interactive") == "C"
    turns.ended("A", well=True)
    turns.offer("A")
    assert await third == "A"
    assert await make(1, "A").take("frames", "bulk") == "A"


async def test_whoever_gives_up_leaves_the_line_and_a_worker_that_just_came_goes_on_to_the_next() -> None:
    turns, order = make(1, "A"), []
    await turns.take("image", "interactive")
    first, second = [await ask(turns, order, name, "interactive") for name in ("first", "second")]
    third = await ask(turns, order, "third", "bulk")
    first.cancel()
    await asyncio.sleep(0)
    turns.ended("A", well=True)
    turns.offer("A")  # it is the second's now, which does not know yet
    second.cancel()
    assert await third == "A"
    assert order == ["third"]
    assert turns.waiting == 0
    assert turns.running == 1


async def test_those_who_wait_are_told_why_nobody_comes() -> None:
    turns, order = make(1, ""), []
    tasks = [await ask(turns, order, "", priority) for priority in ("interactive", "bulk")]
    turns.refuse(lambda: NotReady("none comes up"))
    for task in tasks:
        with pytest.raises(NotReady, match="none comes up"):
            await task
    assert turns.waiting == 0


async def test_the_wait_is_what_kinds_took_of_late_shared_among_the_workers() -> None:
    now = [100.0]
    turns: Turns[str] = Turns(2, clock=lambda: now[0])
    turns.offer("A")
    turns.offer("B")
    assert turns.usual_s("video") == 0.0
    await turns.take("video", "interactive")
    now[0] += 2.0
    turns.ended("A", well=True)
    turns.offer("A")
    assert turns.usual_s("video") == 2.0
    assert turns.running_s("interactive") == 0.0

    for _ in range(2):
        await turns.take("video", "interactive")
    now[0] += 0.5
    assert turns.running_s("interactive") == (1.5 + 1.5) / 2
    tasks = [
        asyncio.create_task(turns.take(kind, priority))
        for kind, priority in (("video", "interactive"), ("image", "bulk"))
    ]
    await asyncio.sleep(0)
    assert turns.waiting_s("interactive") == 1.0
    # Of two workers bulk has one, and all that wait come before it; what pictures take is not known yet.
    assert turns.waiting_s("bulk") == 2.0
    for task in tasks:
        task.cancel()
    now[0] += 10
    assert turns.running_s("interactive") == 0.0
    turns.ended("A", well=True)
    assert turns.usual_s("video") == pytest.approx(2.0 + 0.1 * (10.5 - 2.0))
    turns.ended("B", well=False)
    assert turns.usual_s("video") == pytest.approx(2.85)


async def test_a_worker_that_a_whole_video_keeps_is_not_waited_for() -> None:
    turns = make(2, "AB")
    await turns.take("frames", "bulk")
    turns._usual_s["frames"], turns._usual_s["image"] = 3600.0, 0.5
    await turns.take("image", "interactive")
    assert 0.4 < turns.running_s("interactive") <= 0.5
