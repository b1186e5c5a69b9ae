"""Requests sent when they are due, at a server whose behaviour is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service.bench.arrivals import Answered, offer, poisson
from service.bench.load import Address, request

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"predictions":[]}'
REFUSAL = b'HTTP/1.1 429 Too Many\r\nContent-Length: 21\r\n\r\n{"code":"overloaded"}'
FAILURE = b'HTTP/1.1 500 Oh\r\nContent-Length: 19\r\n\r\n{"code":"internal"}'

Does = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(does: Does) -> AsyncIterator[tuple[Address, list[int]]]:
    """Reads each request whole and does `does(number, writer)`; tells how many requests each connection brought."""
    brought: list[int] = []
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        place = len(brought)
        brought.append(0)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
                number, count = count, count + 1
                brought[place] += 1
                await does(number, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            ended.release()

    ended = asyncio.Semaphore(0)
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with asyncio.timeout(30), listener:
        yield Address("127.0.0.1", listener.sockets[0].getsockname()[1]), brought
        for _ in brought:
            await ended.acquire()


async def offered(
    does: Does, *, count: int = 40, every_s: float = 0.005, patience_s: float = 10.0
) -> tuple[Answered, ...]:
    async with server(does) as (address, _):
        sent = [request(address, "/classify/image", file=b"x" * 5000)]
        return await offer(address, sent, due_s=[number * every_s for number in range(count)], patience_s=patience_s)


async def test_every_second_refusal_is_counted_with_its_code() -> None:
    async def does(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(REFUSAL if number % 2 else ANSWER)

    found = await offered(does)
    assert [sum(each.outcome == outcome for each in found) for outcome in ("accepted", "refused")] == [20, 20]
    assert {each.code for each in found if each.outcome == "refused"} == {"overloaded"}


async def test_what_breaks_hangs_or_fails_is_told_apart() -> None:
    """Of eight requests each: four answers, a connection that is closed, one that is silent, an error, another protocol."""

    async def does(number: int, writer: asyncio.StreamWriter) -> None:
        match number % 8:
            case 4:
                raise ConnectionError
            case 5:
                pass
            case 6:
                writer.write(FAILURE)
            case 7:
                writer.write(b"SSH-2.0-hello\r\n\r\n")
            case _:
                writer.write(ANSWER)

    found = await offered(does, patience_s=0.3)
    outcomes = {
        outcome: sum(each.outcome == outcome for each in found) for outcome in ("accepted", "hung", "lost", "failed")
    }
    assert outcomes == {"accepted": 20, "hung": 5, "lost": 10, "failed": 5}
    assert {each.code for each in found if each.outcome == "failed"} == {"internal"}


async def test_a_slow_server_is_not_waited_for_and_its_slowness_counts_from_when_a_request_was_due() -> None:
    """A server that does one at a time in 20 ms, asked every 5 ms: the last one waits for all before it, and that is told."""
    turn = asyncio.Lock()

    async def does(_number: int, writer: asyncio.StreamWriter) -> None:
        async with turn:
            await asyncio.sleep(0.02)
        writer.write(ANSWER)

    found = await offered(does, count=40)
    assert all(each.outcome == "accepted" for each in found)
    assert found[-1].milliseconds >= 39 * 15, "40 answers of 20 ms, less the 5 ms between requests"
    assert found[0].milliseconds < found[20].milliseconds < found[39].milliseconds
    assert max(each.late_ms for each in found) < 300, "no request waited for an answer before it was sent"


async def test_connections_are_kept_and_used_again() -> None:
    async def does(_number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER)

    async with server(does) as (address, brought):
        sent = [request(address, "/", file=b"x")]
        await offer(address, sent, due_s=[0.02 * number for number in range(20)])
        assert sum(brought) == 20
        assert len(brought) < 20


async def test_an_answer_before_the_body_is_read_is_a_refusal() -> None:
    """A server that refuses at the door answers first, and reads what is still sent afterwards."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(REFUSAL)
                await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
        except asyncio.IncompleteReadError:
            writer.close()
            ended.release()

    ended = asyncio.Semaphore(0)
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with asyncio.timeout(30), listener:
        address = Address("127.0.0.1", listener.sockets[0].getsockname()[1])
        sent = [request(address, "/", file=b"x" * 3_000_000)]
        found = await offer(address, sent, due_s=[0.0, 0.0])
        await ended.acquire()
        await ended.acquire()
    assert [each.outcome for each in found] == ["refused"] * 2


async def test_where_nobody_listens_every_request_is_lost() -> None:
    async with server(lambda _number, _writer: asyncio.sleep(0)) as (address, _):
        pass
    found = await offer(address, [b"GET / HTTP/1.1\r\n\r\n"], due_s=[0.0, 0.01])
    assert [(each.outcome, each.code) for each in found] == [("lost", "no_connection")] * 2


async def test_more_than_all_connections_wait_for_one_and_the_wait_counts() -> None:
    async def does(_number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(ANSWER)

    async with server(does) as (address, brought):
        found = await offer(address, [request(address, "/", file=b"x")], due_s=[0.0] * 6, most_connections=2)
    assert [each.outcome for each in found] == ["accepted"] * 6
    assert len(brought) == 2
    assert max(each.milliseconds for each in found) >= 140, "three after one another"
    assert max(each.late_ms for each in found) >= 90


@pytest.mark.parametrize("rate", [20.0, 500.0])
def test_arrivals_come_at_their_rate_one_by_one_and_the_same_way_again(rate: float) -> None:
    due = np.array(poisson(rate, seconds=100.0, seed=3))
    assert (np.diff(due) > 0).all()
    assert due[-1] < 100
    assert len(due) == pytest.approx(rate * 100, rel=0.1)
    steps = np.diff(due)
    assert steps.std() == pytest.approx(steps.mean(), rel=0.1), "as of a Poisson process, and not evenly"
    assert poisson(rate, seconds=100.0, seed=3) == tuple(due)
    assert poisson(rate, seconds=100.0, seed=4) != tuple(due)
