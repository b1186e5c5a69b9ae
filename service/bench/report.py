"""What `marey bench` found: a document for scripts, a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from service.bench.machine import Machine
from service.bench.stopwatch import Timings
from service.bench.subject import Runner

What = Literal["encoder", "encoder, two under way", "head", "whole clip", "clip network", "clip network, two under way"]


class Milliseconds(BaseModel):
    """Percentiles by nearest rank over all `n` runs."""

    model_config = ConfigDict(frozen=True)

    n: int
    p50: float
    p90: float
    p95: float
    p99: float
    min: float
    mean: float

    @classmethod
    def of(cls, timings: Timings) -> Milliseconds:
        percentiles = {f"p{percent}": round(timings.percentile(percent), 4) for percent in (50, 90, 95, 99)}
        return cls(n=timings.n, min=round(timings.least, 4), mean=round(timings.mean, 4), **percentiles)


class Configuration(BaseModel):
    """One runner on one task: `clips` clips of `frames` frames each (the encoder's rows are clips of one frame).

    `times_as_fast`: as this engine's own other precisions, by name, within each round. `noise`: highest less lowest median
    of a round, over the median; see the note in service/bench/stopwatch.py.
    """

    model_config = ConfigDict(frozen=True)

    runner: int
    what: What
    clips: int
    frames: int
    milliseconds: Milliseconds
    frames_per_s: float
    times_as_fast: dict[str, float]
    noise: float


class Refused(BaseModel):
    """What was not measured, and why."""

    model_config = ConfigDict(frozen=True)

    engine: str
    precision: str
    reason: str


class EngineReport(BaseModel):
    """Stable: fields may be added, none changes its meaning within a `schema_version`."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    kind: Literal["engines"] = "engines"
    date: str
    command: str
    machine: Machine
    bundle: str
    threads: int
    rounds: int
    seconds: float
    runners: tuple[Runner, ...]
    configurations: tuple[Configuration, ...]
    refused: tuple[Refused, ...]


def engine_table(report: EngineReport) -> str:
    """The machine, one table for each task, and what was refused."""
    parts = [heading(report.machine, date=report.date, command=report.command)]
    parts += [
        f"bundle {report.bundle}, {report.threads} CPU threads, {report.rounds} rounds, {report.seconds:g} s each"
    ]
    others = [name for name in ("fp32", "fp16") if any(name in each.times_as_fast for each in report.configurations)]
    names = ["engine", "precision", "p50 ms", "p90", "p95", "p99", "min", "mean", "n", "frames/s"]
    names += [*(f"× {name}" for name in others), "noise"]
    for what, clips, frames in dict.fromkeys((each.what, each.clips, each.frames) for each in report.configurations):
        rows = []
        for each in report.configurations:
            if (each.what, each.clips, each.frames) != (what, clips, frames):
                continue
            runner, times = report.runners[each.runner], each.milliseconds
            shown = [times.p50, times.p90, times.p95, times.p99, times.min, times.mean]
            ratios = [f"{each.times_as_fast[name]:.2f}" if name in each.times_as_fast else "" for name in others]
            figures = [*map(digits, shown), str(times.n), f"{each.frames_per_s:,.0f}", *ratios, f"{each.noise:.0%}"]
            rows.append([runner.engine, precision(runner), *figures])
        title = {"encoder": _count(clips, "frame"), "encoder, two under way": _count(clips, "frame")}.get(
            what, f"{_count(clips, 'clip')} of {_count(frames, 'frame')}"
        )
        parts.append(f"\n{what}: {title}\n" + aligned([names, *rows], left=2))
    runners = [
        [each.engine, precision(each), each.device, f"golden |Δp| {each.golden_difference:.2g}", *each.notes]
        for each in report.runners
    ]
    parts.append("\nrun by\n" + aligned(runners, left=4))
    if report.refused:
        rows = [[each.engine, each.precision, each.reason] for each in report.refused]
        parts.append("\nnot run\n" + aligned(rows, left=3))
    return "\n".join(parts)


def heading(machine: Machine, *, date: str, command: str) -> str:
    driver = f", NVIDIA driver {machine.gpu_driver}" if machine.gpu_driver else ", no NVIDIA driver"
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    return "\n".join(
        [
            f"{date}  {command}",
            f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB, load {machine.load:g} before{driver}",
            f"marey {machine.marey}, python {machine.python}, {packages}",
        ]
    )


def precision(runner: Runner) -> str:
    """What computes: `int8+bf16` is INT8 with the rest in bf16."""
    same = runner.precision == runner.float_precision
    return runner.precision if same else f"{runner.precision}+{runner.float_precision}"


def digits(milliseconds: float) -> str:
    """Three digits that mean something, whatever the size."""
    decimals = 3 if milliseconds < 1 else 2 if milliseconds < 100 else 1
    return f"{milliseconds:.{decimals}f}"


def aligned(rows: Iterable[Sequence[str]], *, left: int) -> str:
    """Columns of equal width, the first `left` of them flush left, the others flush right."""
    held = [list(row) for row in rows]
    widths: dict[int, int] = {}
    for row in held:
        for place, cell in enumerate(row):
            widths[place] = max(widths.get(place, 0), len(cell))
    lines = (
        "  ".join(
            cell.ljust(widths[place]) if place < left else cell.rjust(widths[place]) for place, cell in enumerate(row)
        )
        for row in held
    )
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
