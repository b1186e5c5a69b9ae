"""What a service did under load: a document for scripts, a table for people."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from service.bench.machine import Machine
from service.bench.report import Milliseconds, aligned, digits, heading
from service.bundle.manifest import Task


class Level(BaseModel):
    """`concurrency` requests under way at any time. `errors` by the service's code; the other figures are of the successes.

    `timings_ms`: medians of what the answers say of themselves; `batch_size`: of the frames that ran together. `noise`:
    highest less lowest rate of a round, over the median.
    """

    model_config = ConfigDict(frozen=True)

    concurrency: int
    requests_per_s: float
    milliseconds: Milliseconds | None
    errors: dict[str, int]
    timings_ms: dict[str, float]
    batch_size: float
    noise: float


class Against(BaseModel):
    """Service and loop in turns on the same cores: medians a second, and the ratio within each round."""

    model_config = ConfigDict(frozen=True)

    loop: str
    concurrency: int
    service_per_s: float
    loop_per_s: float
    ratio: float
    ratio_range: tuple[float, float]
    rounds: int


class ServiceReport(BaseModel):
    """Stable: fields may be added, none changes its meaning within a `schema_version`."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    kind: Literal["service"] = "service"
    date: str
    command: str
    machine: Machine
    url: str
    model: dict[str, str]
    task: Task
    posted: str
    rounds: int
    seconds: float
    levels: tuple[Level, ...]
    against: Against | None


def service_table(report: ServiceReport) -> str:
    """The machine, one row for each level, the stages, and the ratio."""
    model = report.model
    runs = f"{model['name']} {model['version']} on {model['engine']} {model['precision']}+{model['float_precision']}"
    parts = [heading(report.machine, date=report.date, command=report.command)]
    parts.append(f"{runs}, {model['device']}, at {report.url}; the load came from this machine")
    parts.append(f"posted: {report.posted}; {report.rounds} rounds, {report.seconds:g} s for each level\n")
    rows = [["at a time", "requests/s", "p50 ms", "p90", "p95", "p99", "min", "mean", "n", "batch", "noise", "errors"]]
    for level in report.levels:
        times = level.milliseconds
        shown = [times.p50, times.p90, times.p95, times.p99, times.min, times.mean] if times else []
        figures = [*map(digits, shown), str(times.n)] if times else ["-"] * 6 + ["0"]
        errors = ", ".join(f"{count} {code}" for code, count in sorted(level.errors.items())) or "none"
        ends = [f"{level.batch_size:g}", f"{level.noise:.0%}", errors]
        rows.append([str(level.concurrency), f"{level.requests_per_s:,.1f}", *figures, *ends])
    parts.append(aligned(rows, left=0))
    stages = dict.fromkeys(stage for level in report.levels for stage in level.timings_ms)
    rows = [["at a time", *stages]]
    rows += [
        [str(level.concurrency), *(digits(level.timings_ms.get(stage, 0.0)) for stage in stages)]
        for level in report.levels
    ]
    parts.append("\nin the service, median ms\n" + aligned(rows, left=0))
    if (against := report.against) is not None:
        low, high = against.ratio_range
        parts.append(
            f"\nagainst {against.loop}, on the same cores, in turns:\n"
            f"  service {against.service_per_s:,.1f}/s at {against.concurrency} at a time, loop {against.loop_per_s:,.1f}/s, "
            f"ratio {against.ratio:.2f} ({low:.2f} to {high:.2f} over {against.rounds} rounds)"
        )
    return "\n".join(parts)
