"""What `marey bench` does with its options."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from service.bench.engines import TORCH, Plan, compare
from service.bench.load import Address
from service.bench.overload import LEVELS as OVERLOAD_LEVELS
from service.bench.overload import Offered, measure_overload
from service.bench.overload_report import OverloadReport, overload_table
from service.bench.report import EngineReport, engine_table
from service.bench.samples import read_samples
from service.bench.service_report import ServiceReport, service_table
from service.bench.serving import LEVELS, measure_bundle, measure_url
from service.bundle.store import open_bundle
from service.engine.base import Place
from service.engine.select import ENGINES
from service.settings import Settings

_SECONDS = {"engines": 2.0, "service": 12.0, "overload": 30.0}
_OF_ENGINES = ("engines", "precisions", "batches")


def of_bundle(
    bundle: Path, *, wishes: Mapping[str, Any], settings: Settings, command: str, tell: Callable[[str], None]
) -> tuple[EngineReport, str]:
    """Engines beside each other: the report, and the same as a table."""
    if unknown := sorted(set(wishes["engines"]) - {*ENGINES, TORCH}):
        raise click.BadParameter(f"there is no engine {unknown[0]!r}; choose from {', '.join(ENGINES)} and {TORCH}")
    plan = Plan(
        engines=wishes["engines"],
        precisions=wishes["precisions"],
        batches=tuple(sorted({int(rows) for rows in wishes["batches"]})),
        seconds=wishes["seconds"] or _SECONDS["engines"],
        rounds=wishes["rounds"],
        torch_mode=wishes["torch_mode"],
    )
    place = _place(wishes, settings, tell)
    report = compare(open_bundle(bundle), plan=plan, place=place, command=command, tell=tell)
    return report, engine_table(report)


def of_service(
    bundle: Path | None,
    *,
    url: str | None,
    file: Path | None,
    levels: tuple[int, ...],
    wishes: Mapping[str, Any],
    settings: Settings,
    command: str,
    tell: Callable[[str], None],
) -> tuple[ServiceReport, str]:
    """A service under load: the report, and the same as a table."""
    if wishes["batches"] or any(len(wishes[name]) > 1 for name in _OF_ENGINES) or (url and _chosen(wishes)):
        raise click.UsageError(
            "a service runs on one engine at one precision in batches of its own; with --http give one --engine and one "
            "--precision at most, with --url none"
        )
    common: dict[str, Any] = {
        "samples": None if file is None else read_samples(file),
        "levels": levels or LEVELS,
        "seconds": wishes["seconds"] or _SECONDS["service"],
        "rounds": wishes["rounds"],
        "command": command,
        "tell": tell,
    }
    if url is not None:
        report = asyncio.run(measure_url(Address.parse(url), **common))
    else:
        assert bundle is not None
        place = _place(wishes, settings, tell)
        report = measure_bundle(open_bundle(bundle), options=_chosen(wishes), place=place, **common)
    return report, service_table(report)


def of_overload(
    url: str,
    *,
    rate: float | None,
    overload: float | None,
    file: Path | None,
    levels: tuple[int, ...],
    wishes: Mapping[str, Any],
    command: str,
    tell: Callable[[str], None],
) -> tuple[OverloadReport, str]:
    """A service that is asked for more than it can do: the report, and the same as tables."""
    if any(wishes[name] for name in _OF_ENGINES):
        raise click.UsageError(
            "the service at --url has an engine of its own; leave --engine, --precision and --batch out"
        )
    seconds = wishes["seconds"] or _SECONDS["overload"]
    plan = Offered(rate=rate, overload=overload or 0.0, seconds=seconds, rounds=wishes["rounds"])
    report = asyncio.run(
        measure_overload(
            Address.parse(url),
            plan,
            samples=None if file is None else read_samples(file),
            levels=levels or OVERLOAD_LEVELS,
            command=command,
            tell=tell,
        )
    )
    return report, overload_table(report)


def _chosen(wishes: Mapping[str, Any]) -> tuple[str, ...]:
    """The options for `marey serve`."""
    return (
        *(f"--engine={name}" for name in wishes["engines"]),
        *(f"--precision={name}" for name in wishes["precisions"]),
        *((f"--devices={wishes['device']}",) if wishes["device"] else ()),
    )


def _place(wishes: Mapping[str, Any], settings: Settings, tell: Callable[[str], None]) -> Place:
    return Place(
        threads=settings.threads,
        device=wishes["device"],
        engine_cache=settings.engine_cache,
        progress=lambda phase, share: tell(f"building the engine: {phase}, {share:.0%}"),
    )
