"""`marey bench --url … --overload 3`: more than a service can do, for a while; what it takes, what it refuses, and how soon."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.bench.arrivals import Answered, offer, poisson
from service.bench.load import Address, Load, ask, drive, request
from service.bench.machine import this_machine
from service.bench.overload_report import Figures, OverloadReport, Round, judged
from service.bench.samples import Samples
from service.bench.serving import traffic_for
from service.errors import MareyError

# Closed loops among which the one is found at which the service does most.
LEVELS = (8, 32)
# The queue's budget where the service does not tell it.
_QUEUE_MS = 100.0
# Of each stretch, until queues are as long as they will be.
_SETTLING = 0.1


@dataclass(frozen=True, slots=True)
class Offered:
    """How much: `rate` requests a second, or `overload` times what the service does at best. `seconds` in `rounds` stretches."""

    rate: float | None
    overload: float
    seconds: float
    rounds: int
    seed: int = 1
    patience_s: float = 45.0


async def measure_overload(
    address: Address,
    plan: Offered,
    *,
    samples: Samples | None,
    levels: tuple[int, ...],
    command: str,
    tell: Callable[[str], None],
) -> OverloadReport:
    """One at a time, as much as it can do, and more than that, in turns. Raises MareyError where no service answers."""
    machine, date = this_machine(), dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    each = plan.seconds / plan.rounds
    traffic = await traffic_for(address, samples, levels=levels, seconds=plan.seconds, rounds=plan.rounds)
    queue_ms = await _queue_ms(address)
    tell("warming the service")
    await _closed(address, traffic.requests, level=1, seconds=min(1.0, each))
    # Bulk, so that none of these is refused for having to wait: they are to wait.
    path = f"/classify/{traffic.samples.task}?priority=bulk"
    patient = [request(address, path, file=data) for data in traffic.samples.files]
    best: dict[int, Load] = {}
    for level in levels:
        tell(f"looking for its capacity: {level} at a time")
        best[level] = await _closed(address, patient, level=level, seconds=each)
    level = max(best, key=lambda key: best[key].per_s)
    unloaded: list[float] = []
    answers: list[Answered] = []
    rounds: list[Round] = []
    for number in range(plan.rounds):
        tell(f"round {number + 1} of {plan.rounds}: one at a time")
        unloaded += (await _closed(address, traffic.requests, level=1, seconds=each)).milliseconds
        tell(f"round {number + 1} of {plan.rounds}: {level} at a time")
        capacity = (await _closed(address, patient, level=level, seconds=each)).per_s
        rate = plan.rate or plan.overload * capacity
        tell(f"round {number + 1} of {plan.rounds}: {rate:.0f} a second")
        due = poisson(rate, seconds=each, seed=plan.seed + number)
        spent = time.process_time()
        found = await offer(address, traffic.requests, due_s=due, patience_s=plan.patience_s)
        cores = (time.process_time() - spent) / each
        answers += found
        rounds.append(_round(found, capacity=capacity, rate=rate, seconds=each, cores=cores))
    figures = Figures.of(answers, rounds, unloaded_ms=unloaded)
    return OverloadReport(
        date=date,
        command=command,
        machine=machine,
        url=str(address),
        posted=traffic.samples.source,
        task=traffic.samples.task,
        seconds=plan.seconds,
        rounds=tuple(rounds),
        overload=None if plan.rate else plan.overload,
        level=level,
        seed=plan.seed,
        queue_ms=queue_ms,
        figures=figures,
        checks=judged(figures, queue_ms=queue_ms, judges_goodput=plan.rate is None),
    )


def _round(found: Sequence[Answered], *, capacity: float, rate: float, seconds: float, cores: float) -> Round:
    """Goodput: answers a second, by when they came, once the stretch had settled."""
    begins = _SETTLING * seconds
    good = sum(each.outcome == "accepted" and begins <= each.done_s <= seconds for each in found)
    goodput = good / (seconds - begins)
    return Round(
        capacity_per_s=round(capacity, 2),
        offered_per_s=round(rate, 2),
        goodput_per_s=round(goodput, 2),
        goodput=round(goodput / capacity, 4) if capacity else 0.0,
        generator_cores=round(cores, 3),
    )


async def _closed(address: Address, requests: Sequence[bytes], *, level: int, seconds: float) -> Load:
    load = await drive(address, requests, concurrency=level, seconds=seconds)
    if not load.milliseconds:
        code, detail = next(iter(load.details.items()), ("none", "it gave no answer in time"))
        raise MareyError(f"{address} answered none of the requests, {level} at a time: {code}, {detail}")
    return load


async def _queue_ms(address: Address) -> float:
    status, body = await ask(address, request(address, "/limits"))
    limits: list[dict[str, Any]] = body.get("limits", []) if status == 200 and isinstance(body, dict) else []
    return float(next((limit["value"] for limit in limits if limit.get("name") == "queue_ms"), _QUEUE_MS))
