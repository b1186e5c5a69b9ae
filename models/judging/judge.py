"""Run a bundle's engines over labelled clips: each clip is decoded once and given to every engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.data.dataset import Dataset, Sample
from models.judging.perturb import Perturbation
from service.bundle.manifest import Precision
from service.bundle.store import Bundle
from service.engine.base import Engine, EngineInfo, Place
from service.engine.golden import answers
from service.engine.select import open_engine
from service.media.sample import uniform

THREADS = len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Runner:
    """What is judged: an engine at a precision."""

    engine: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True, slots=True)
class Judged:
    """`truth` `[n]` class ids and, for each runner, `probabilities` `[n, K]` of the same n clips in the same order.

    Of a network with a grid also `positions` `[n, P, K]`, as the network gives them.
    """

    samples: tuple[Sample, ...]
    truth: NDArray[np.int64]
    probabilities: dict[Runner, NDArray[np.float32]]
    info: dict[Runner, EngineInfo]
    positions: dict[Runner, NDArray[np.float32]] = field(default_factory=dict)

    def part(self, split: str) -> Judged:
        """Only the clips of one split."""
        chosen = np.array([sample.split == split for sample in self.samples])
        return Judged(
            tuple(sample for sample in self.samples if sample.split == split),
            self.truth[chosen],
            {runner: rows[chosen] for runner, rows in self.probabilities.items()},
            self.info,
            {runner: rows[chosen] for runner, rows in self.positions.items()},
        )


def runners_of(bundle: Bundle, *, engine: str | None = None, precision: Precision | None = None) -> tuple[Runner, ...]:
    """Every artifact on the engine that serves it, the float one first; or what was asked for."""
    held: tuple[Precision, ...] = ("fp32", "int8") if bundle.manifest.quantized else ("fp32",)
    if engine == "onnxruntime":
        held = ("fp32",)  # it runs no other
    return tuple(Runner(engine or "openvino", each) for each in ((precision,) if precision else held))


def judge(
    bundle: Bundle,
    dataset: Dataset,
    samples: Sequence[Sample],
    *,
    runners: Sequence[Runner],
    perturbation: Perturbation | None = None,
) -> Judged:
    """Decode each sample as the service would, change its frames by `perturbation` and ask every runner.

    Raises EngineError or DataError.
    """
    manifest = bundle.manifest
    with ExitStack() as stack:
        engines: dict[Runner, Engine] = {}
        for runner in runners:
            opened = open_engine(bundle, name=runner.engine, precision=runner.precision, place=Place(threads=THREADS))
            engines[runner] = stack.enter_context(closing(opened.engine))
        said = ("probabilities", "positions") if manifest.network.grid else ("probabilities",)
        rows: dict[str, dict[Runner, list[NDArray[np.float32]]]]
        rows = {name: {runner: [] for runner in runners} for name in said}
        for sample in tqdm(samples, desc=f"judge {manifest.name}", unit="clip", disable=None):
            frames = dataset.load(sample, spec=manifest.input, sampling=manifest.sampling).frames
            if perturbation is not None:
                frames = perturbation.apply(frames, name=dataset.identity(sample))
            fixed = manifest.network.static_frames
            if fixed is not None:  # a picture, or too short a clip, is repeated, as when serving
                frames = frames[list(uniform(len(frames), fixed, short_clip="repeat"))]
            for runner, engine in engines.items():
                outputs = answers(engine, frames[None])
                for name in said:
                    rows[name][runner].append(outputs[name][0])
        truth = np.array(dataset.class_ids(samples), np.int64)
        judged = {name: {runner: np.stack(each) for runner, each in found.items()} for name, found in rows.items()}
        info = {runner: engine.info for runner, engine in engines.items()}
        return Judged(tuple(samples), truth, judged["probabilities"], info, judged.get("positions", {}))
