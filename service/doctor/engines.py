"""Each engine, really run: the smallest bundle's golden clips through it, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from service.doctor.child import NoAnswer, ask
from service.doctor.report import Check, no, ok
from service.engine.probe import Trial, trial
from service.engine.select import ENGINES
from service.settings import Settings

# TensorRT may have to build first, which takes minutes on a small GPU.
_PATIENCE_S = {"tensorrt": 1200.0}
_DEFAULT_PATIENCE_S = 180.0


def engines(
    bundles: Sequence[Path],
    *,
    settings: Settings,
    parts: Mapping[str, Sequence[Check]],
    progress: Callable[[str], None],
) -> list[Check]:
    """In the order of `auto`, TensorRT on each of the devices that are set.

    `bundles`: whole ones, the smallest first; `parts`: what was found of the packages and devices below an engine.
    """
    checks = []
    for engine in ENGINES:
        devices = settings.devices or (0,) if engine == "tensorrt" else (0,)
        for device in devices:
            name = engine if len(devices) == 1 else f"{engine} {device}"
            if bundles:
                progress(f"{name} runs {bundles[0].name}")
            checks.append(
                _try(
                    name, bundles=bundles, engine=engine, device=device, settings=settings, parts=parts.get(engine, ())
                )
            )
    return checks


def taken(engines: Sequence[Check], *, settings: Settings) -> str | None:
    """The engine that `marey serve` takes by these settings; None where that one does not run."""
    wanted = "tensorrt" if settings.devices and settings.engine == "auto" else settings.engine
    running = [str(check.facts["engine"]) for check in engines if check.state == "ok"]
    return next((name for name in running if wanted in ("auto", name)), None)


def _try(
    name: str, *, bundles: Sequence[Path], engine: str, device: int, settings: Settings, parts: Sequence[Check]
) -> Check:
    if not bundles:
        says = "not tried: there is no whole bundle to run"
        return no(name, says, "mend the bundles above, or unset MAREY_BUNDLES", engine=engine, ran=False, reason=says)
    # Without its parts it cannot run, and asking could take as long as a build may take.
    if missing := [check for check in parts if check.state == "no"]:
        return _without(name, engine, missing)
    question = partial(
        trial,
        bundles[0],
        engine=engine,
        precision=settings.precision,
        threads=settings.threads,
        device=device,
        engine_cache=settings.engine_cache,
    )
    try:
        answer = ask(question, timeout_s=_PATIENCE_S.get(engine, _DEFAULT_PATIENCE_S))
    except NoAnswer as error:
        return _failed(name, engine, str(error))
    return _ran(name, engine, answer)


def _ran(name: str, engine: str, trial: Trial) -> Check:
    floats = "" if trial.float_precision == trial.precision else f" (float part {trial.float_precision})"
    head = f", its head on {trial.head_engine}" if trial.head_engine else ""
    says = (
        f"runs here: {trial.bundle} at {trial.precision}{floats} on {trial.device}{head}, {trial.frames} frames in "
        f"{trial.milliseconds:.1f} ms, golden difference {trial.golden_difference:.2g} of {trial.tolerance:g} allowed"
    )
    if trial.refused:
        says += f"; not at another precision, because {'; '.join(trial.refused)}"
    return ok(
        name,
        says,
        engine=engine,
        ran=True,
        bundle=trial.bundle,
        precision=trial.precision,
        float_precision=trial.float_precision,
        device=trial.device,
        head_engine=trial.head_engine,
        frames=trial.frames,
        milliseconds=trial.milliseconds,
        golden_difference=trial.golden_difference,
        tolerance=trial.tolerance,
        refused=list(trial.refused),
    )


def _without(name: str, engine: str, missing: Sequence[Check]) -> Check:
    others = f"; nor is {' or '.join(check.name for check in missing[1:])} in order, see above" if missing[1:] else ""
    says = f"cannot run, because {missing[0].says}{others}"
    return no(name, says, missing[0].remedy or "", engine=engine, ran=False, reason=says)


def _failed(name: str, engine: str, reason: str) -> Check:
    said, _, advice = reason.rpartition("; ")
    remedy = advice if said else f"MAREY_LOG_LEVEL=debug marey serve --engine {engine}"
    return no(name, f"does not run: {said or reason}", remedy, engine=engine, ran=False, reason=reason)
