"""What the engine takes for a batch, opened and proved as the service does it, in turns; see Note [Rounds] in bench/stopwatch.py.

# Note [Whose seconds]
On processors it is the processor time of all its threads: what lasts longer because others use the machine costs no more, and
a thread that waits leaves its core to the decoders. On a GPU it is the time that the batch lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np

from service.bench.stopwatch import Task, measure
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
    on_gpu = info.name == "tensorrt" or info.device == "cuda"
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
        clock = time.perf_counter if on_gpu else time.process_time
        spent: dict[tuple[str, int], list[float]] = {key: [] for key in tasks}
        measure(
            {key: _timed(task, clock, spent[key]) for key, task in tasks.items()},
            seconds=seconds,
            rounds=rounds,
            progress=lambda number: tell(f"networks, round {number + 1} of {rounds}"),
        )
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
        entry=_rows(spent, "entry"),
        head=_rows(spent, "head"),
    )


def _timed(task: Task, clock: Callable[[], float], spent: list[float]) -> Task:
    """`task`, each run of which is noted in `spent`, in seconds of `clock`."""

    def run() -> None:
        began = clock()
        task.run()
        spent.append(clock() - began)

    return replace(task, run=run)


def _rows(spent: dict[tuple[str, int], list[float]], what: str) -> tuple[Rows, ...]:
    return tuple(Rows(rows=rows, seconds=Measured.of(found)) for (name, rows), found in spent.items() if name == what)
