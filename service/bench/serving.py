"""`marey bench --url` and `--http`: a service under load, and how much of what the cores can do it delivers."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from service.bench.hosted import hosted
from service.bench.load import Address, Load, ask, drive, request
from service.bench.loops import BareImages, DecodeEverything
from service.bench.machine import this_machine
from service.bench.report import Milliseconds
from service.bench.samples import Samples, made_samples
from service.bench.service_report import Against, Level, ServiceReport
from service.bench.stopwatch import Timings
from service.bundle.manifest import Task
from service.bundle.store import Bundle
from service.engine.base import Choice, Place
from service.engine.select import open_engine
from service.errors import MareyError

# One at a time, a few, and two levels at which the device never waits; by default the service takes 64 at once.
LEVELS = (1, 4, 16, 64)


class _Loop(Protocol):
    name: str

    def run(self, seconds: float) -> float: ...


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent: the files, and the query for `model`. `seconds` for each level, in `rounds` rounds."""

    samples: Samples
    requests: tuple[bytes, ...]
    levels: tuple[int, ...]
    seconds: float
    rounds: int


async def measure_url(
    address: Address,
    *,
    samples: Samples | None,
    levels: tuple[int, ...],
    seconds: float,
    rounds: int,
    command: str,
    tell: Callable[[str], None],
) -> ServiceReport:
    """Drive the service at `address`, which somebody else runs. Raises MareyError where none answers."""
    machine, date = this_machine(), _now()
    traffic = await traffic_for(address, samples, levels=levels, seconds=seconds, rounds=rounds)
    loads = await _levels(address, traffic, tell=tell)
    return _report(traffic, loads, None, machine=machine, date=date, command=command, url=str(address))


def measure_bundle(
    bundle: Bundle,
    *,
    options: tuple[str, ...],
    place: Place,
    samples: Samples | None,
    levels: tuple[int, ...],
    seconds: float,
    rounds: int,
    command: str,
    tell: Callable[[str], None],
) -> ServiceReport:
    """Serve `bundle` here with `marey serve`'s `options`, drive it, and compare it with a loop on the same cores, turn by turn."""
    machine, date = this_machine(), _now()
    tell("starting the service")
    with hosted(bundle.path, options=options, threads=place.threads) as service, ExitStack() as stack:
        address = service.address
        traffic = asyncio.run(traffic_for(address, samples, levels=levels, seconds=seconds, rounds=rounds))
        loads = asyncio.run(_levels(address, traffic, tell=tell))
        model = _model(loads)
        loop = _loop(bundle, model, traffic, place=place, stack=stack)
        # Saturated: more under way than there are cores to decode on and an engine to wait for.
        saturated = [level for level in traffic.levels if level > 2 * place.threads] or [max(traffic.levels)]
        best = max(saturated, key=lambda level: median(load.per_s for load in loads[level]))
        against = _against(address, traffic, loop, level=best, tell=tell)
    return _report(traffic, loads, against, machine=machine, date=date, command=command, url=str(address))


def _loop(bundle: Bundle, model: Mapping[str, Any], traffic: Traffic, *, place: Place, stack: ExitStack) -> _Loop:
    """For images a bare loop on the very engine that the service uses; for videos what people do without Marey."""
    files, video = traffic.samples.files, traffic.samples.task == "video"
    precision: Choice = "fp32" if video else model["precision"]
    name = "onnxruntime" if video else model["engine"]
    engine = stack.enter_context(closing(open_engine(bundle, name=name, precision=precision, place=place).engine))
    if video:
        return stack.enter_context(closing(DecodeEverything(bundle, engine, files)))
    return BareImages(bundle, engine, files, threads=place.threads)


def _against(address: Address, traffic: Traffic, loop: _Loop, *, level: int, tell: Callable[[str], None]) -> Against:
    """Service and loop in turns, one idle while the other works; see Note [Rounds] in service/bench/stopwatch.py."""
    each = traffic.seconds / traffic.rounds
    loop.run(min(1.0, each))
    served, alone = [], []
    for number in range(traffic.rounds):
        tell(f"against {loop.name}, round {number + 1} of {traffic.rounds}")
        turns: list[Callable[[], None]] = [
            lambda: served.append(asyncio.run(_loaded(address, traffic, level, each)).per_s),
            lambda: alone.append(loop.run(each)),
        ]
        for turn in turns if number % 2 == 0 else reversed(turns):
            turn()
    ratios = sorted(ours / theirs for ours, theirs in zip(served, alone, strict=True))
    return Against(
        loop=loop.name,
        concurrency=level,
        service_per_s=round(median(served), 2),
        loop_per_s=round(median(alone), 2),
        ratio=round(median(ratios), 4),
        ratio_range=(round(ratios[0], 4), round(ratios[-1], 4)),
        rounds=traffic.rounds,
    )


async def traffic_for(
    address: Address, samples: Samples | None, *, levels: tuple[int, ...], seconds: float, rounds: int
) -> Traffic:
    """The requests for what the service takes: where no files are given, an image if any model takes one."""
    status, body = await ask(address, request(address, "/models"))
    if status != 200 or not isinstance(body, dict) or not body.get("models"):
        raise MareyError(f"{address}/models answered {status}, and not as a Marey service does; check --url")
    tasks = {task for model in body["models"] for task in model["tasks"]}
    wanted: Task = samples.task if samples is not None else "image" if "image" in tasks else "video"
    chosen = samples or made_samples(wanted)
    path = f"/classify/{wanted}"
    return Traffic(chosen, tuple(request(address, path, file=data) for data in chosen.files), levels, seconds, rounds)


async def _levels(address: Address, traffic: Traffic, *, tell: Callable[[str], None]) -> dict[int, list[Load]]:
    """Every level in every round; a first stretch apart, in which the service meets the files for the first time."""
    each = traffic.seconds / traffic.rounds
    tell("warming the service")
    first = await drive(address, traffic.requests, concurrency=min(4, max(traffic.levels)), seconds=min(1.0, each))
    if not first.milliseconds:
        code, detail = next(iter(first.details.items()), ("none", "it gave no answer in time"))
        raise MareyError(f"{address} answered none of the requests: {code}, {detail}")
    loads: dict[int, list[Load]] = {level: [] for level in traffic.levels}
    for number in range(traffic.rounds):
        for level in traffic.levels if number % 2 == 0 else reversed(traffic.levels):
            tell(f"round {number + 1} of {traffic.rounds}: {level} at a time")
            loads[level].append(await _loaded(address, traffic, level, each))
    return loads


async def _loaded(address: Address, traffic: Traffic, level: int, seconds: float) -> Load:
    return await drive(address, traffic.requests, concurrency=level, seconds=seconds)


def _model(loads: dict[int, list[Load]]) -> dict[str, Any]:
    model: dict[str, Any] = next(
        answer["model"] for parts in loads.values() for load in parts for answer in load.answers
    )
    return model


def _report(
    traffic: Traffic, loads: dict[int, list[Load]], against: Against | None, *, url: str, **about: Any
) -> ServiceReport:
    return ServiceReport(
        url=url,
        model={name: str(value) for name, value in _model(loads).items()},
        posted=traffic.samples.source,
        task=traffic.samples.task,
        rounds=traffic.rounds,
        seconds=traffic.seconds,
        levels=tuple(_level(level, parts) for level, parts in loads.items()),
        against=against,
        **about,
    )


def _level(level: int, parts: Sequence[Load]) -> Level:
    rates = [load.per_s for load in parts]
    answers = [answer for load in parts for answer in load.answers]
    errors: dict[str, int] = {}
    for load in parts:
        for code, count in load.errors.items():
            errors[code] = errors.get(code, 0) + count
    timed = tuple(tuple(load.milliseconds) for load in parts if load.milliseconds)
    stages = dict.fromkeys(stage for answer in answers for stage in answer["timings_ms"])
    return Level(
        concurrency=level,
        requests_per_s=round(median(rates), 2),
        milliseconds=Milliseconds.of(Timings(timed)) if timed else None,
        errors=errors,
        timings_ms={
            stage: round(median(answer["timings_ms"].get(stage, 0.0) for answer in answers), 3) for stage in stages
        },
        batch_size=median(answer["batch_size"] for answer in answers) if answers else 0,
        noise=round((max(rates) - min(rates)) / median(rates), 4) if median(rates) else 0.0,
    )


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
