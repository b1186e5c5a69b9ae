"""How long each engine takes for the encoder and the head, measured in turn so that the machine's drift meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from statistics import median

import numpy as np
from pydantic import BaseModel

from models.judge import THREADS, Runner
from service.bundle.store import Bundle
from service.engine.base import EngineInfo, Place
from service.engine.select import open_engine

BATCHES = (1, 16)


class Latency(BaseModel):
    """Medians in ms: the encoder at 1 and 16 frames, the head for one clip of the manifest's length. `runs`: of each."""

    engine: str
    precision: str
    float_precision: str
    device: str
    threads: int
    encoder_1_ms: float
    encoder_16_ms: float
    head_frames: int
    head_ms: float
    runs: int


def measure(bundle: Bundle, runners: Sequence[Runner], *, runs: int = 15) -> list[Latency]:
    """One warm-up, then `runs` rounds; in each round every runner has its turn."""
    golden = bundle.golden().frames.reshape(-1, *_frame_shape(bundle))
    frames = {batch: np.resize(golden, (batch, *golden.shape[1:])) for batch in BATCHES}
    length = bundle.manifest.sampling.frames
    with ExitStack() as stack:
        tasks: dict[tuple[Runner, str], Callable[[], object]] = {}
        infos: dict[Runner, EngineInfo] = {}
        for runner in runners:
            opened = open_engine(bundle, name=runner.engine, precision=runner.precision, place=Place(threads=THREADS))
            engine = stack.enter_context(closing(opened.engine))
            infos[runner] = engine.info
            features = engine.run("encoder", frames[1])["features"]
            clip = np.repeat(features[None], length, axis=1)
            for batch in BATCHES:
                tasks[runner, f"encoder_{batch}_ms"] = partial(engine.run, "encoder", frames[batch])
            tasks[runner, "head_ms"] = partial(engine.run, "head", clip)
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
            head_frames=length,
            runs=runs,
            **{what: round(median(times), 3) for (owner, what), times in spent.items() if owner == runner},
        )
        for runner, info in infos.items()
    ]


def _frame_shape(bundle: Bundle) -> tuple[int, int, int]:
    spec = bundle.manifest.input
    return spec.height, spec.width, spec.channels
