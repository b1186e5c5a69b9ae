"""`marey bench BUNDLE`: every engine that runs here at every precision it takes, and torch, in one interleaved run."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bench.machine import this_machine
from service.bench.report import Configuration, EngineReport, Milliseconds, Refused, What
from service.bench.stopwatch import Task, Timings, measure
from service.bench.subject import EngineSubject, Subject
from service.bench.torch_baseline import Mode, TorchSubject, torch_precisions
from service.bundle.manifest import Precision, Stage
from service.bundle.store import Bundle
from service.engine.base import Place
from service.engine.buckets import BUCKETS, usual_frames
from service.engine.select import ENGINES, open_engine
from service.errors import DeviceLost, EngineError

TORCH = "torch"
# Clips that one call of the head takes: a lone request, and a batch of them.
_CLIPS = (1, 16)
# What the network that frames enter is called in the tables, and with two batches under way.
_ENTRY: dict[Stage, What] = {"encoder": "encoder", "clip": "clip network"}
_OVERLAPPED: dict[Stage, What] = {"encoder": "encoder, two under way", "clip": "clip network, two under way"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. Empty `engines`, `precisions` or `batches`: all there are. `seconds` a configuration, in `rounds` rounds."""

    engines: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    batches: tuple[int, ...] = ()
    seconds: float = 2.0
    rounds: int = 6
    torch_mode: Mode = "auto"


@dataclass(frozen=True, slots=True)
class _Key:
    """One configuration: which runner, on what."""

    runner: int
    what: What
    clips: int
    frames: int


def compare(
    bundle: Bundle, *, plan: Plan, place: Place, command: str, tell: Callable[[str], None] = lambda _text: None
) -> EngineReport:
    """Measure `plan`, all on the calling thread: it is the device thread. Raises EngineError where nothing can be measured."""
    machine, date = this_machine(), dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    refused: list[Refused] = []
    with ExitStack() as stack:
        subjects: list[Subject] = []
        for subject in _opened(bundle, plan=plan, place=place, refused=refused, tell=tell):
            stack.enter_context(closing(subject))
            subjects.append(subject)
        if not subjects:
            raise EngineError(
                "nothing to measure: " + "; ".join(f"{each.engine} {each.precision}: {each.reason}" for each in refused)
            )
        tasks = _tasks(bundle, subjects, plan=plan, refused=refused, tell=tell)
        if plan.batches and not any(key.what in _ENTRY.values() for key in tasks):
            raise EngineError("; ".join(dict.fromkeys(each.reason for each in refused)) + "; choose a smaller --batch")
        minutes = len(tasks) * plan.seconds / 60
        tell(f"{len(tasks)} configurations, {plan.seconds:g} s each: about {minutes:.1f} min")
        timings = measure(
            tasks,
            seconds=plan.seconds,
            rounds=plan.rounds,
            progress=lambda number: tell(f"round {number + 1} of {plan.rounds}"),
        )
        runners = tuple(subject.runner for subject in subjects)
    return EngineReport(
        date=date,
        command=command,
        machine=machine,
        bundle=f"{bundle.manifest.name} {bundle.manifest.version}",
        threads=place.threads,
        rounds=plan.rounds,
        seconds=plan.seconds,
        runners=runners,
        configurations=tuple(
            _configuration(key, timings, [runner.engine for runner in runners], [r.precision for r in runners])
            for key in timings
        ),
        refused=tuple(refused),
    )


def _opened(
    bundle: Bundle, *, plan: Plan, place: Place, refused: list[Refused], tell: Callable[[str], None]
) -> Iterable[Subject]:
    """Every subject that runs here; why the others do not goes to `refused`."""
    for name in plan.engines or (*ENGINES, TORCH):
        try:
            precisions = torch_precisions(plan.precisions) if name == TORCH else _precisions(bundle, name, plan)
        except EngineError as error:
            refused.append(Refused(engine=name, precision="", reason=str(error)))
            continue
        reasons: dict[str, str] = {}
        for precision in precisions:
            tell(f"opening {name} {precision}")
            try:
                if name == TORCH:
                    yield TorchSubject(bundle, precision=precision, place=place, mode=plan.torch_mode)
                else:
                    yield EngineSubject(open_engine(bundle, name=name, precision=precision, place=place))  # type: ignore[arg-type]
            except DeviceLost:
                raise
            except EngineError as error:
                wrapping = rf"no engine runs bundle {re.escape(bundle.manifest.name)}: {name}( {precision})?: "
                reasons[precision] = re.sub(f"^{wrapping}", "", str(error))
        for reason in dict.fromkeys(reasons.values()):
            those = [precision for precision, each in reasons.items() if each == reason]
            refused.append(Refused(engine=name, precision=", ".join(those), reason=reason))


def _precisions(bundle: Bundle, name: str, plan: Plan) -> tuple[Precision, ...]:
    """Those that were asked for, whether or not the engine takes them: it says itself why not."""
    held = bundle.manifest.quantized
    return plan.precisions or tuple(each for each in ENGINES[name].precisions if each != "int8" or held)


def _tasks(
    bundle: Bundle,
    subjects: Sequence[Subject],
    *,
    plan: Plan,
    refused: list[Refused],
    tell: Callable[[str], None],
) -> dict[_Key, Task]:
    """All tasks, warm, in the order of the tables. One that an engine refuses is set aside with its reason."""
    # torch takes any batch: beside the engines it runs theirs.
    engines = [subject for subject in subjects if isinstance(subject, EngineSubject)] or subjects
    largest = max(subject.max_batch for subject in engines)
    batches = plan.batches or tuple(rows for rows in BUCKETS if rows <= largest)
    golden = bundle.golden().frames
    seen = golden.reshape(-1, *golden.shape[2:])
    length = usual_frames(bundle.manifest)
    first, *rest = bundle.manifest.network.stages
    taken, unit = (1, "frames") if first == "encoder" else (length, "clips")  # frames in a row, and what a row is
    axes = () if first == "encoder" else (length,)
    tasks: dict[_Key, Task] = {}

    def add(number: int, what: What, make: Callable[[], Task | None], *, clips: int, frames: int) -> None:
        runner = subjects[number].runner
        tell(f"warming {runner.engine} {runner.precision}, {what}, {clips} × {frames}")
        try:
            task = make()
            if task is not None:
                task.warm()
                tasks[_Key(number, what, clips, frames)] = task
        except EngineError as error:
            refused.append(Refused(engine=runner.engine, precision=runner.precision, reason=f"{what}: {error}"))

    for rows in batches:
        batch = np.resize(seen, (rows, *axes, *seen.shape[1:]))
        for number, subject in enumerate(subjects):
            if rows > subject.max_batch:
                runner = subject.runner
                reason = f"a batch of {rows} {unit} exceeds {subject.max_batch}, the largest that pays on this device"
                if plan.batches:
                    refused.append(Refused(engine=runner.engine, precision=runner.precision, reason=reason))
                continue
            add(number, _ENTRY[first], lambda s=subject, b=batch: s.entry(b), clips=rows, frames=taken)  # type: ignore[misc]
            add(number, _OVERLAPPED[first], lambda s=subject, b=batch: s.overlapped(b), clips=rows, frames=taken)  # type: ignore[misc]
    if rest:
        _add_heads(np.resize(seen, (length, *seen.shape[1:])), subjects, add)
    return tasks


def _add_heads(clip: NDArray[np.uint8], subjects: Sequence[Subject], add: Callable[..., None]) -> None:
    """The head on the features of `clip` `[T, H, W, C]`, and encoder and head together."""
    for number, subject in enumerate(subjects):
        features = subject.features(clip)
        for clips in _CLIPS:
            batch = np.repeat(features[None], clips, axis=0)
            add(number, "head", lambda s=subject, b=batch: s.head(b), clips=clips, frames=len(clip))
        add(number, "whole clip", lambda s=subject: s.clip(clip), clips=1, frames=len(clip))


def _configuration(
    key: _Key, timings: dict[_Key, Timings], engines: Sequence[str], precisions: Sequence[str]
) -> Configuration:
    ours = timings[key]
    ratios = {
        precisions[other.runner]: round(ours.times_as_fast(theirs), 3)
        for other, theirs in timings.items()
        if engines[other.runner] == engines[key.runner]
        and precisions[other.runner] != precisions[key.runner]
        and (other.what, other.clips, other.frames) == (key.what, key.clips, key.frames)
    }
    return Configuration(
        runner=key.runner,
        what=key.what,
        clips=key.clips,
        frames=key.frames,
        milliseconds=Milliseconds.of(ours),
        frames_per_s=round(key.clips * key.frames / ours.mean * 1000, 2),
        times_as_fast=ratios,
        noise=round(ours.noise, 4),
    )
