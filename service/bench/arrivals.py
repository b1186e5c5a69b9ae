"""Load that does not wait: requests are sent when they are due, whatever became of those before.

# Note [Coordinated omission]
A client that asks again once it has its answer slows down with the service, and never sees what others would have waited.
Here every latency counts from when the request was due: where a connection, or this process, was late, that is in the figure.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from service.bench.load import Address

Outcome = Literal["accepted", "refused", "failed", "hung", "lost"]
OUTCOMES: tuple[Outcome, ...] = ("accepted", "refused", "failed", "hung", "lost")

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_CODE = re.compile(rb'"code": ?"([a-z0-9_]{1,40})"')
# Not now, come back later: what a service says that protects itself.
_REFUSALS = frozenset({429, 503, 507})
# Servers close connections that nobody uses; one that is closed while a request is on its way would count as lost.
_IDLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one request. `due_s` from the start; `milliseconds` from when it was due; `late_ms` until it was sent."""

    outcome: Outcome
    code: str
    due_s: float
    late_ms: float
    milliseconds: float

    @property
    def done_s(self) -> float:
        return self.due_s + self.milliseconds / 1000


def poisson(rate: float, *, seconds: float, seed: int) -> tuple[float, ...]:
    """When requests are due within `seconds`, `rate` a second on average: independent of each other, as people are."""
    steps = np.random.default_rng(seed).exponential(1 / rate, size=int(rate * seconds * 1.5) + 100)
    return tuple(float(due) for due in np.cumsum(steps) if due < seconds)


async def offer(
    address: Address,
    requests: Sequence[bytes],
    *,
    due_s: Sequence[float],
    patience_s: float = 45.0,
    most_connections: int = 512,
) -> tuple[Answered, ...]:
    """Send one request at each of `due_s`, in order; returns once each was answered, given up (hung) or lost.

    `hung`: no answer within `patience_s`. `lost`: the connection could not be made, broke, or spoke something else.
    """
    sender = _Sender(address, most_connections)
    start = time.perf_counter()
    shots = [_Shot(sent, start + due, start) for sent, due in zip(itertools.cycle(requests), due_s, strict=False)]
    try:
        for shot in shots:
            if (wait := shot.due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            sender.send(shot)
        if shots:
            left = max(0.0, shots[-1].due + patience_s - time.perf_counter())
            await asyncio.wait([shot.answered for shot in shots], timeout=left)
        for shot in shots:  # those that still wait, before their connections are closed
            shot.end("hung", "hung")
    finally:
        await sender.close()
    return tuple(shot.answered.result() for shot in shots)


def counted(answers: Sequence[Answered]) -> dict[str, int]:
    """How often each code came, other than that of an answer."""
    return dict(sorted(Counter(each.code for each in answers if each.outcome != "accepted").items()))


@dataclass(slots=True, eq=False)
class _Shot:
    """One request under way; times in `perf_counter` seconds."""

    bytes: bytes
    due: float
    start: float
    sent: float = 0.0
    answered: asyncio.Future[Answered] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, outcome: Outcome, code: str) -> None:
        if self.answered.done():
            return
        now = time.perf_counter()
        late_ms = max(0.0, (self.sent or now) - self.due) * 1000
        self.answered.set_result(Answered(outcome, code, self.due - self.start, late_ms, (now - self.due) * 1000))


class _Sender:
    """Kept-alive connections: the one used last goes first, another is opened where all are busy."""

    def __init__(self, address: Address, most: int) -> None:
        self._address = address
        self._room = most
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: list[_Shot] = []

    def send(self, shot: _Shot) -> None:
        while self._idle:
            connection = self._idle.pop()
            fresh = time.perf_counter() - connection.idle_since < _IDLE_S
            if fresh and not connection.transport.is_closing():
                connection.send(shot)
                return
            connection.transport.close()
        if self._room <= 0:
            self._waiting.append(shot)
            return
        self._room -= 1
        task = asyncio.ensure_future(self._connect(shot))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def freed(self, connection: _Connection) -> None:
        if self._waiting:
            connection.send(self._waiting.pop(0))
        else:
            connection.idle_since = time.perf_counter()
            self._idle.append(connection)

    def gone(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._room += 1
        if self._waiting:
            self.send(self._waiting.pop(0))

    async def close(self) -> None:
        self._waiting.clear()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in tuple(self._open):
            connection.transport.abort()
        await asyncio.gather(*(connection.closed for connection in tuple(self._open)))

    async def _connect(self, shot: _Shot) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self), self._address.host, self._address.port
            )
        except OSError:
            self._room += 1
            shot.end("lost", "no_connection")
            return
        self._open.add(connection)
        connection.send(shot)


class _Connection(asyncio.Protocol):
    """One request at a time; the service states every body's length."""

    transport: asyncio.Transport

    def __init__(self, sender: _Sender) -> None:
        self._sender = sender
        self._shot: _Shot | None = None
        self._received = bytearray()
        self.idle_since = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, shot: _Shot) -> None:
        if self.transport.is_closing():
            shot.end("lost", "connection")
            return
        self._shot, shot.sent = shot, time.perf_counter()
        self.transport.write(shot.bytes)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 and len(self._received) < 65_536:
            return
        head = bytes(self._received[: end + 2])
        status, length = _STATUS.match(head), _LENGTH.search(head)
        shot = self._shot
        if shot is None or status is None or length is None:
            self.transport.abort()  # whoever waits is told by connection_lost
            return
        stop = end + 4 + int(length.group(1))
        if len(self._received) < stop:
            return
        body = bytes(self._received[end + 4 : stop])
        del self._received[:stop]
        self._shot = None
        shot.end(*_judged(int(status.group(1)), body))
        if _CLOSES.search(head):
            self.transport.close()
        else:
            self._sender.freed(self)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._shot is not None:
            self._shot.end("lost", "connection")
        if not self.closed.done():
            self.closed.set_result(None)
        self._sender.gone(self)


def _judged(status: int, body: bytes) -> tuple[Outcome, str]:
    if status == 200 and b'"predictions"' in body:
        return "accepted", "ok"
    found = _CODE.search(body)
    code = found.group(1).decode() if found else f"status {status}"
    return ("refused" if status in _REFUSALS else "failed"), code
