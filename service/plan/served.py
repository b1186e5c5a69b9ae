"""A real service under load, seen from outside: what its event loop, its other threads and its decoders spend on a request."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from service.bench.hosted import Hosted, hosted
from service.bench.load import drive, request
from service.bench.samples import Samples
from service.bundle.store import Bundle
from service.errors import MareyError
from service.media.feed import CONTAINERS
from service.media.sniff import video_container
from service.plan.figures import Measured, Served
from service.plan.processes import children, family_s, main_thread_s, memory_bytes, process_s

_HEAD = 4096
_PIECE = 2**16
# Of one load on the event loop: a stream shorter than this would be lost in steps of 10 ms.
_STREAM_S = 2.0


@dataclass(slots=True)
class _Spent:
    """Round by round, for each request or a second."""

    request: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)
    workers: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)


def measure_served(
    bundle: Bundle,
    samples: Samples,
    *,
    options: tuple[str, ...],
    threads: int,
    concurrency: int,
    seconds: float,
    rounds: int,
    predicted: Callable[[float, float], float],
    tell: Callable[[str], None],
) -> Served:
    """Serve `bundle` with `marey serve`'s `options` and keep `concurrency` uploads under way for `seconds`.

    `predicted` says what so many cores would do in clips a second, with so many of the event loop's seconds for each. Raises MareyError where a request fails.
    """
    tell("starting the service")
    with hosted(bundle.path, options=options, threads=threads) as service:
        spent = asyncio.run(
            _uploads(service, samples.files, concurrency=concurrency, seconds=seconds, rounds=rounds, tell=tell)
        )
        workers = children(service.pid)
        worker_bytes = max(memory_bytes(pid) for pid in workers)
        process_bytes = memory_bytes(service.pid)
        answer, stream_bytes = asyncio.run(_streams(service, samples.files, rounds=rounds, tell=tell))
        if stream_bytes == 0:  # each had ended before it could be read; it is a decode worker, too
            stream_bytes = worker_bytes
    cores, per_request = Measured.of(spent.cores).median, Measured.of(spent.request)
    return Served(
        concurrency=concurrency,
        request=per_request,
        device=Measured.of(spent.device),
        workers=Measured.of(spent.workers),
        answer=answer,
        process_bytes=process_bytes,
        worker_bytes=worker_bytes,
        stream_bytes=stream_bytes,
        per_s=Measured.of(spent.per_s),
        cores=cores,
        predicted_per_s=round(predicted(cores, per_request.median), 3),
    )


async def _uploads(
    service: Hosted,
    files: Sequence[bytes],
    *,
    concurrency: int,
    seconds: float,
    rounds: int,
    tell: Callable[[str], None],
) -> _Spent:
    requests = [request(service.address, "/classify/video", file=data) for data in files]
    tell("warming the service")
    await drive(service.address, requests, concurrency=concurrency, seconds=min(1.0, seconds / rounds))
    found, available = _Spent(), len(os.sched_getaffinity(0))
    for number in range(rounds):
        tell(f"under load, round {number + 1} of {rounds}")
        began, own = time.perf_counter(), time.process_time()
        loop_s, all_s, workers_s = main_thread_s(service.pid), process_s(service.pid), family_s(service.pid)
        load = await drive(service.address, requests, concurrency=concurrency, seconds=seconds / rounds)
        if load.errors:
            code, detail = next(iter(load.details.items()))
            raise MareyError(f"the service refused {sum(load.errors.values())} requests: {code}, {detail}")
        count = len(load.milliseconds)
        loop_s = main_thread_s(service.pid) - loop_s
        found.request.append(loop_s / count)
        found.device.append((process_s(service.pid) - all_s - loop_s) / count)
        found.workers.append((family_s(service.pid) - workers_s) / count)
        found.per_s.append(load.per_s)
        found.cores.append(available - (time.process_time() - own) / (time.perf_counter() - began))
    return found


async def _streams(
    service: Hosted, files: Sequence[bytes], *, rounds: int, tell: Callable[[str], None]
) -> tuple[Measured | None, int | None]:
    """The event loop's seconds for an answer of a stream, and the memory of a stream's decoder; None where no file can be streamed."""
    forms = {title: name for name, title in CONTAINERS.items()}
    streams = [(forms[kind], data) for data in files if (kind := video_container(data[:_HEAD])) in forms]
    if not streams:
        return None, None
    answer: list[float] = []
    memory: list[int] = []
    for number in range(rounds):
        tell(f"streams, round {number + 1} of {rounds}")
        began, loop_s, answers = time.perf_counter(), main_thread_s(service.pid), 0
        while not answers or time.perf_counter() - began < _STREAM_S:
            form, data = streams[len(memory) % len(streams)]
            count, held = await _stream(service, data, form=form)
            answers += count
            memory.append(held)
        answer.append((main_thread_s(service.pid) - loop_s) / answers)
    return Measured.of(answer), max(memory)


async def _stream(service: Hosted, data: bytes, *, form: str) -> tuple[int, int]:
    """All of `data` through one stream: how many answers came, and the memory of the process that decoded it."""
    address = f"ws://{service.address.host}:{service.address.port}/classify/stream?format={form}&drop=false"
    before, answers, held = set(children(service.pid)), 0, 0
    try:
        async with connect(address, max_size=None, compression=None) as stream:
            sending = asyncio.create_task(_send(stream.send, data))
            try:
                async for text in stream:
                    message = json.loads(text)
                    if message["type"] == "problem":
                        raise MareyError(f"a stream of the service broke off: {message['problem']['detail']}")
                    answers += message["type"] == "prediction"
                    # Once it has decoded: before, it holds no pictures.
                    held = held or (sum(map(memory_bytes, set(children(service.pid)) - before)) if answers else 0)
            finally:
                sending.cancel()
    except (OSError, WebSocketException) as error:
        raise MareyError(f"no stream could be opened at {service.address} ({error})") from None
    if not answers:
        raise MareyError("a stream gave no answer; measure with longer clips")
    return answers, held


async def _send(send: Callable[[bytes | str], object], data: bytes) -> None:
    for start in range(0, len(data), _PIECE):
        await send(data[start : start + _PIECE])  # type: ignore[misc]
    await send('{"end": true}')  # type: ignore[misc]
