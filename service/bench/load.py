"""A load generator on bare streams: it must cost little beside a service on the same cores, and httpx does not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from service.errors import MareyError

# Longer than any deadline that the service grants.
_PATIENCE_S = 660.0
# Whoever is refused comes back later: asking again at once, some connections would keep the service busy with refusals.
_REFUSALS = frozenset({429, 503, 507})
_PAUSE_S = 0.05
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service listens: plain HTTP, as inside a cluster or on one machine."""

    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Address:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme != "http" or not parts.hostname or port == -1:
            raise MareyError(f"--url {url!r} is no address of a service; give one such as http://127.0.0.1:8000")
        return cls(parts.hostname, port or 80)

    def __str__(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(slots=True)
class Load:
    """What came back in one stretch of load. `milliseconds` and `answers` are of the successful requests only.

    `per_s`: successes a second from when every connection had its first answer until the stretch was over, so that
    neither the start nor the end is counted as the service's slowness.
    """

    milliseconds: list[float] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    per_s: float = 0.0


def request(address: Address, path: str, *, file: bytes | None = None) -> bytes:
    """A whole HTTP request, GET or, with a `file`, a POST of a form that holds it."""
    head = f"{'GET' if file is None else 'POST'} {path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
    if file is None:
        return f"{head}\r\n".encode()
    boundary = "marey-bench-7d1f4c62"
    start = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'.encode()
    body = start + file + f"\r\n--{boundary}--\r\n".encode()
    head += f"Content-Type: multipart/form-data; boundary={boundary}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def ask(address: Address, sent: bytes) -> tuple[int, Any]:
    """One request on a connection of its own: status and JSON. Raises MareyError where nothing, or something else, answers."""
    connection = await _connect(address)
    try:
        status, body = await asyncio.wait_for(connection.exchange(sent), _PATIENCE_S)
        return status, json.loads(body)
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        raise MareyError(f"{address} does not answer as a Marey service does ({error}); check --url") from None
    finally:
        await connection.close()


async def drive(address: Address, requests: Sequence[bytes], *, concurrency: int, seconds: float) -> Load:
    """Keep `concurrency` requests under way for `seconds`, each connection sending its next as soon as it has its answer.

    Raises MareyError where no connection can be made.
    """
    load, turns = Load(), itertools.cycle(requests)
    finished: list[float] = []
    warmed: set[int] = set()
    connections = [await _connect(address) for _ in range(concurrency)]
    until = time.perf_counter() + seconds
    counting_from = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal counting_from
        while time.perf_counter() < until:
            sent, began = next(turns), time.perf_counter()
            try:
                status, body = await asyncio.wait_for(connections[number].exchange(sent), _PATIENCE_S)
            except (OSError, asyncio.IncompleteReadError) as error:
                _count(load, "connection", f"the connection broke: {error}")
                await connections[number].close()
                connections[number] = await _connect(address)
                continue
            now = time.perf_counter()
            if len(warmed) < concurrency:
                warmed.add(number)
                counting_from = now
            elif now <= until and status == 200:
                finished.append(now)
            _record(load, status, body, (now - began) * 1000)
            if status in _REFUSALS:
                await asyncio.sleep(_PAUSE_S)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(concurrency):
                group.create_task(client(number))
    except* MareyError as failures:
        raise failures.exceptions[0] from None
    finally:
        for connection in connections:
            await connection.close()
    # Requests longer than the stretch leave nothing to count: then each connection's first answer is all there is.
    span = until - counting_from
    total = sum(load.milliseconds) / 1000
    load.per_s = len(finished) / span if finished else concurrency * len(load.milliseconds) / total if total else 0.0
    return load


def _record(load: Load, status: int, body: bytes, milliseconds: float) -> None:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    if status == 200 and "timings_ms" in answer:
        load.milliseconds.append(milliseconds)
        load.answers.append(
            {"timings_ms": answer["timings_ms"], "model": answer["model"], "batch_size": answer["batch_size"]}
        )
    else:
        _count(load, str(answer.get("code", status)), str(answer.get("detail", f"status {status}")))


def _count(load: Load, code: str, detail: str) -> None:
    load.errors[code] = load.errors.get(code, 0) + 1
    load.details.setdefault(code, detail)


class _Connection:
    """One kept-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def exchange(self, sent: bytes) -> tuple[int, bytes]:
        """Status and body; the service states every body's length."""
        self._writer.write(sent)
        await self._writer.drain()
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise ConnectionError(f"a head without an end: {error}") from None
        status, length = _STATUS.match(head), _LENGTH.search(head)
        if status is None or length is None:
            raise ConnectionError(f"no HTTP answer with a length: {head[:40]!r}")
        return int(status.group(1)), await self._reader.readexactly(int(length.group(1)))

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):  # it may be broken already
            await self._writer.wait_closed()


async def _connect(address: Address) -> _Connection:
    try:
        return _Connection(*await asyncio.open_connection(address.host, address.port))
    except OSError as error:
        raise MareyError(f"no service answers at {address} ({error}); start one with marey serve") from None
