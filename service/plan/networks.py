"""Seconds of the engine, opened and proved as the service does it: by batch, in turns; see Note [Rounds] in bench/stopwatch.py."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np

from service.bench.stopwatch import Task, Timings, measure
from service.bench.subject import EngineSubject
from service.bundle.manifest import Precision
from service.bundle.store import Bundle
from service.engine.base import Choice, Place
from service.engine.buckets import buckets_up_to, usual_frames
from service.engine.select import open_engine
from service.plan.figures import Measured, Networks, Rows

# Clips that one call of the head takes: a lone request, and a batch of them.
_CLIPS = (1, 16)


def measure_networks(
    bundle: Bundle,
    *,
    engine: str,
    precision: Choice | Precision,
    place: Place,
    seconds: float,
    rounds: int,
    tell: Callable[[str], None],
) -> Networks:
    """Every batch size that the service would use, `seconds` for each. Call it on the device thread; raises EngineError."""
    tell("opening the engine")
    opened = open_engine(bundle, name=engine, precision=precision, place=place)
    info, length = opened.engine.info, usual_frames(bundle.manifest)
    golden = bundle.golden().frames
    seen = golden.reshape(-1, *golden.shape[2:])
    axes = () if info.stages[0] == "encoder" else (length,)
    with closing(EngineSubject(opened)) as subject:
        tasks: dict[tuple[str, int], Task] = {}
        for rows in buckets_up_to(info.max_batch):
            batch = np.resize(seen, (rows, *axes, *seen.shape[1:]))
            # Where the device works on its own, a batch follows the other as under load: copies cost nothing then.
            tasks["entry", rows] = subject.overlapped(batch) or subject.entry(batch)
        if "head" in info.stages:
            features = subject.features(np.resize(seen, (length, *seen.shape[1:])))
            for clips in _CLIPS:
                tasks["head", clips] = subject.head(np.repeat(features[None], clips, axis=0))
        for task in tasks.values():
            task.warm()
        timings = measure(
            tasks,
            seconds=seconds,
            rounds=rounds,
            progress=lambda number: tell(f"networks, round {number + 1} of {rounds}"),
        )
    on_gpu = info.name == "tensorrt" or info.device == "cuda"
    return Networks(
        engine=info.name,
        precision=info.precision,
        float_precision=info.float_precision,
        device=info.device,
        unit="gpu" if on_gpu else "core",
        threads=1 if on_gpu else place.threads,
        kind="clip" if info.stages == ("clip",) else "encoder",
        frames=length,
        frame_bytes=int(np.prod(seen.shape[1:])),
        entry=_rows(timings, "entry"),
        head=_rows(timings, "head"),
    )


def _rows(timings: dict[tuple[str, int], Timings], what: str) -> tuple[Rows, ...]:
    return tuple(
        Rows(rows=rows, seconds=Measured.of([each / 1000 for part in found.rounds for each in part]))
        for (name, rows), found in timings.items()
        if name == what
    )
