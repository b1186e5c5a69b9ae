"""What a service did when more was asked of it than it can do: a document for scripts, tables and a verdict for people."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict

from service.bench.arrivals import OUTCOMES, Answered, Outcome, counted
from service.bench.machine import Machine
from service.bench.report import Milliseconds, aligned, digits, heading
from service.bench.stopwatch import Timings
from service.bundle.manifest import Task

# What is asked of a service at three times its capacity.
_QUEUE_BUDGETS = 1.5
_REFUSAL_MS = 50.0
_GOODPUT = 0.9


class Round(BaseModel):
    """One stretch beside the closed loop just before it. `goodput`: answers a second over that capacity.

    `generator_cores`: processor time of the load generator, in cores; on the service's own machine the service lacks it.
    """

    model_config = ConfigDict(frozen=True)

    capacity_per_s: float
    offered_per_s: float
    goodput_per_s: float
    goodput: float
    generator_cores: float


class Figures(BaseModel):
    """All stretches together; latencies from when a request was due. `goodput`: median of the rounds.

    `late_ms`: how late the generator sent what was due.
    """

    model_config = ConfigDict(frozen=True)

    outcomes: dict[Outcome, int]
    codes: dict[str, int]
    unloaded_ms: Milliseconds | None
    accepted_ms: Milliseconds | None
    refused_ms: Milliseconds | None
    late_ms: Milliseconds | None
    goodput: float

    @classmethod
    def of(cls, answers: Sequence[Answered], rounds: Sequence[Round], *, unloaded_ms: Sequence[float]) -> Figures:
        def of(outcome: Outcome) -> list[float]:
            return [each.milliseconds for each in answers if each.outcome == outcome]

        return cls(
            outcomes={outcome: sum(each.outcome == outcome for each in answers) for outcome in OUTCOMES},
            codes=counted(answers),
            unloaded_ms=_spread(unloaded_ms),
            accepted_ms=_spread(of("accepted")),
            refused_ms=_spread(of("refused")),
            late_ms=_spread([each.late_ms for each in answers]),
            goodput=round(median(each.goodput for each in rounds), 4),
        )


class Check(BaseModel):
    """One number that is asked for, and what it was."""

    model_config = ConfigDict(frozen=True)

    what: str
    value: float
    limit: float
    met: bool


class OverloadReport(BaseModel):
    """Stable: fields may be added, none changes its meaning within a `schema_version`.

    `overload` None: a rate was asked for. `level`: requests at a time in the closed loop that gave the capacity. `seed`: of
    the first round's schedule, the next ones count on from there.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    kind: Literal["overload"] = "overload"
    date: str
    command: str
    machine: Machine
    url: str
    posted: str
    task: Task
    seconds: float
    overload: float | None
    level: int
    seed: int
    queue_ms: float
    rounds: tuple[Round, ...]
    figures: Figures
    checks: tuple[Check, ...]

    @property
    def met(self) -> bool:
        return all(check.met for check in self.checks)


def judged(figures: Figures, *, queue_ms: float, judges_goodput: bool) -> tuple[Check, ...]:
    """The numbers that a service has to reach; goodput only where more was offered than it can do."""
    checks = []

    def at_most(what: str, value: float, limit: float) -> None:
        checks.append(Check(what=what, value=value, limit=round(limit, 3), met=value <= limit))

    if figures.accepted_ms is not None and figures.unloaded_ms is not None:
        allowed = figures.unloaded_ms.p99 + _QUEUE_BUDGETS * queue_ms
        at_most(
            f"p99 of accepted ≤ unloaded p99 + {_QUEUE_BUDGETS:g} × {queue_ms:g} ms", figures.accepted_ms.p99, allowed
        )
    if figures.refused_ms is not None:
        at_most(f"p95 of refusals ≤ {_REFUSAL_MS:g} ms", figures.refused_ms.p95, _REFUSAL_MS)
    if judges_goodput:
        met = figures.goodput >= _GOODPUT
        checks.append(
            Check(what=f"goodput ≥ {_GOODPUT:.0%} of capacity", value=figures.goodput, limit=_GOODPUT, met=met)
        )
    for outcome in ("failed", "hung", "lost"):
        at_most(f"{outcome} = 0", figures.outcomes[outcome], 0)
    return tuple(checks)


def overload_table(report: OverloadReport) -> str:
    """The machine, what was offered, latencies, and the verdict."""
    figures = report.figures
    parts = [heading(report.machine, date=report.date, command=report.command)]
    times = f"{report.overload:g} × its capacity" if report.overload else "a rate that was asked for"
    parts.append(f"{report.url}; the load came from this machine, open loop (seed {report.seed}), {times}")
    parts.append(f"posted: {report.posted}; {len(report.rounds)} rounds, {report.seconds:g} s of load in all\n")
    rows = [["round", f"capacity/s at {report.level}", "offered/s", "goodput/s", "goodput", "generator's cores"]]
    rows += [
        [
            str(number + 1),
            f"{each.capacity_per_s:,.1f}",
            f"{each.offered_per_s:,.1f}",
            f"{each.goodput_per_s:,.1f}",
            f"{each.goodput:.0%}",
            f"{each.generator_cores:.2f}",
        ]
        for number, each in enumerate(report.rounds)
    ]
    parts.append(aligned(rows, left=0))
    rows = [["ms from when it was due", "p50", "p90", "p95", "p99", "min", "mean", "n"]]
    for name, spread in (
        ("one at a time", figures.unloaded_ms),
        ("accepted", figures.accepted_ms),
        ("refused", figures.refused_ms),
        ("sent late", figures.late_ms),
    ):
        if spread is not None:
            shown = [spread.p50, spread.p90, spread.p95, spread.p99, spread.min, spread.mean]
            rows.append([name, *map(digits, shown), str(spread.n)])
    parts.append("\n" + aligned(rows, left=1))
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in figures.outcomes.items())
    codes = ", ".join(f"{count} {code}" for code, count in figures.codes.items())
    parts.append(f"\n{outcomes}" + (f" ({codes})" if codes else "") + "\n")
    rows = [["met" if each.met else "MISSED", each.what, f"{each.value:g}"] for each in report.checks]
    parts.append(aligned(rows, left=2))
    return "\n".join(parts)


def _spread(milliseconds: Sequence[float]) -> Milliseconds | None:
    return Milliseconds.of(Timings((tuple(milliseconds),))) if milliseconds else None
