"""Clip networks on a GPU: every batch and length that serving meets gets what NumPy computes, in every precision."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.bundle.manifest import Precision
from service.bundle.store import Bundle
from service.engine.golden import prove
from service.engine.network import SLOTS
from service.engine.trt import TensorRtEngine
from tests.clip_bundle import SIDE, make_clip_bundle, said
from tests.gpu.alike import same

_LIMITS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.02}


@dataclass(frozen=True, slots=True)
class Case:
    """A clip network of any length, or of 16 frames alone, at one precision."""

    bundle: Bundle
    engine: TensorRtEngine
    limit: float

    @property
    def lengths(self) -> tuple[int, ...]:
        fixed = self.bundle.manifest.network.static_frames
        return (fixed,) if fixed else (1, 2, 4, 7, 8)


@pytest.fixture(
    scope="module", params=itertools.product((None, 16), _LIMITS), ids=lambda param: f"{param[0]}-{param[1]}"
)
def case(
    request: pytest.FixtureRequest, opening: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    frames, precision = request.param
    name = f"motion{frames or ''}"
    bundle = make_clip_bundle(
        tmp_path_factory.mktemp("clips") / name, name=name, frames=frames, positions="steps", int8=4
    )
    with opening(bundle, precision) as engine:
        yield Case(bundle, engine, _LIMITS[precision])


def clips_of(batch: int, length: int) -> NDArray[np.uint8]:
    return np.random.default_rng(batch * 100 + length).integers(0, 256, (batch, length, SIDE, SIDE, 3), np.uint8)


def test_the_golden_clips_are_reproduced(case: Case, record: Callable[..., None]) -> None:
    difference = prove(case.engine, case.bundle)
    record(golden_difference=difference, most_clips=case.engine.info.max_batch, cuda_graphs=case.engine.cuda_graphs)


def test_every_output_at_every_batch_and_length_is_what_numpy_computes(case: Case, record: Callable[..., None]) -> None:
    most = case.engine.info.max_batch
    shapes = itertools.product(sorted({1, 2, 3, most, 2 * most + 1}), case.lengths)
    differences = {}
    for batch, length in sorted(shapes, key=lambda shape: (shape[0] * 7 + shape[1] * 3) % 11):
        clips = clips_of(batch, length)
        found, expected = case.engine.run("clip", clips), said(clips)
        assert set(found) == set(expected)
        for name, array in found.items():
            assert array.shape == expected[name].shape
            differences[f"{batch}x{length} {name}"] = float(np.abs(array - expected[name]).max())
    record(largest=max(differences.values()), limit=case.limit)
    assert max(differences.values()) <= case.limit, differences


def test_batches_under_way_at_the_same_time_are_not_mixed_up(case: Case) -> None:
    most, length = case.engine.info.max_batch, case.lengths[-1]
    batches = [clips_of(seed + 1, length)[:most] for seed in range(most)]
    sizes = [1 << (len(batch) - 1).bit_length() for batch in batches]
    alone = [case.engine.begin("clip", [batch], bucket=size)() for batch, size in zip(batches, sizes, strict=True)]
    waiting: list[Callable[[], Any]] = []
    together: list[Any] = []
    for batch, size in zip(batches * 5, sizes * 5, strict=True):
        if len(waiting) == SLOTS:
            together.append(waiting.pop(0)())
        waiting.append(case.engine.begin("clip", [batch], bucket=size))
    together += [wait() for wait in waiting]
    for found, expected in zip(together, alone * 5, strict=True):
        same(found["probabilities"], expected["probabilities"])
        same(found["positions"], expected["positions"])
