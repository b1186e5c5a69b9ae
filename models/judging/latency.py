"""How long each engine takes for the encoder and the head, measured in turn so that the machine's drift meets all alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from statistics import median

import numpy as np
from pydantic import BaseModel

from models.judging.judge import THREADS, Runner
from service.bundle.store import Bundle
from service.engine.base import Engine, EngineInfo, Place
from service.engine.buckets import usual_frames
from service.engine.golden import probabilities
from service.engine.select import open_engine

BATCHES = (1, 16)


class Latency(BaseModel):
    """Medians in ms: of an encoder at 1 and 16 frames and its head for one clip, or of a clip network for one clip.

    `head_frames`, `clip_frames`: the frames of that clip. `total_ms`: all networks for one clip of `total_frames`, or for one image where
    the bundle takes no videos. `runs`: of each. `load`: how many processes a core had in the minute before, by the system's average.
    """

    engine: str
    precision: str
    float_precision: str
    device: str
    threads: int
    encoder_1_ms: float | None = None
    encoder_16_ms: float | None = None
    head_frames: int | None = None
    head_ms: float | None = None
    clip_frames: int | None = None
    clip_ms: float | None = None
    total_frames: int | None = None
    total_ms: float | None = None
    runs: int
    load: float | None = None


def measure(bundle: Bundle, runners: Sequence[Runner], *, runs: int = 15) -> list[Latency]:
    """One warm-up, then `runs` rounds; in each round every runner has its turn. Raises EngineError."""
    busy = round(os.getloadavg()[0] / THREADS, 1)
    with ExitStack() as stack:
        tasks: dict[tuple[Runner, str], Callable[[], object]] = {}
        infos: dict[Runner, EngineInfo] = {}
        for runner in runners:
            opened = open_engine(bundle, name=runner.engine, precision=runner.precision, place=Place(threads=THREADS))
            engine = stack.enter_context(closing(opened.engine))
            infos[runner] = engine.info
            tasks |= {(runner, what): task for what, task in _tasks(bundle, engine).items()}
        spent: dict[tuple[Runner, str], list[float]] = {key: [] for key in tasks}
        for number in range(runs + 1):
            for key, task in tasks.items():
                began = time.perf_counter()
                task()
                if number:
                    spent[key].append((time.perf_counter() - began) * 1000)
    return [
        Latency(
            engine=info.name,
            precision=info.precision,
            float_precision=info.float_precision,
            device=info.device,
            threads=THREADS,
            runs=runs,
            load=busy,
            total_frames=_whole(bundle),
            **{f"{info.stages[-1]}_frames": usual_frames(bundle.manifest)},
            **{what: round(median(times), 3) for (owner, what), times in spent.items() if owner == runner},
        )
        for runner, info in infos.items()
    ]


def _whole(bundle: Bundle) -> int:
    """The frames of what is usually asked for: of a clip, or of an image where no videos are taken."""
    manifest = bundle.manifest
    return usual_frames(manifest) if "video" in manifest.tasks else manifest.network.static_frames or 1


def _tasks(bundle: Bundle, engine: Engine) -> dict[str, Callable[[], object]]:
    spec, length = bundle.manifest.input, usual_frames(bundle.manifest)
    golden = bundle.golden().frames.reshape(-1, spec.height, spec.width, spec.channels)
    whole = np.resize(golden, (1, _whole(bundle), *golden.shape[1:]))
    total = {"total_ms": partial(probabilities, engine, whole)}
    if engine.info.stages == ("clip",):
        return total | {"clip_ms": partial(engine.run, "clip", np.resize(golden, (1, length, *golden.shape[1:])))}
    frames = {batch: np.resize(golden, (batch, *golden.shape[1:])) for batch in BATCHES}
    features = engine.run("encoder", frames[1])["features"]
    return total | {
        "encoder_1_ms": partial(engine.run, "encoder", frames[1]),
        "encoder_16_ms": partial(engine.run, "encoder", frames[16]),
        "head_ms": partial(engine.run, "head", np.repeat(features[None], length, axis=1)),
    }
