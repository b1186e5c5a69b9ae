"""Models that come and go, without HTTP and decoders: real bundles, a real engine, a real device thread."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.batcher import Batcher
from service.media.limits import Limits
from service.media.workers import DecodePool
from service.registry.loading import Loader
from service.registry.memory import taken
from service.registry.model import Model
from service.registry.opening import Opener
from service.registry.served import Served
from service.registry.watch import Watch
from service.settings import Settings


@dataclass
class House:
    """The parts that a registry joins."""

    folder: Path
    served: Served
    loader: Loader
    watch: Watch
    opener: Opener

    @property
    def states(self) -> dict[str, str]:
        return {model.title: model.state for model in self.served}

    def model(self, version: str, name: str = "color") -> Model:
        return self.served[name, version]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Callable[..., House]]:
    """`house(max_bytes=…)`: what looks after the folder `tmp_path / "bundles"`, by onnxruntime, which opens quickly.

    With `cost` every model costs so many bytes; else what is measured, which for bundles of 1 KB is chance.
    """
    folder = tmp_path / "bundles"
    folder.mkdir()
    made: list[tuple[House, Batcher]] = []

    def make(*, max_bytes: int | None = None, cost: int | None = None) -> House:
        settings = Settings(bundles=(folder,), engine="onnxruntime", threads=1, max_model_bytes=max_bytes)
        batcher = Batcher(max_queued_rows=4096)
        batcher.start()
        decoders = DecodePool(1, limits=Limits(max_pixels=10**6, max_duration_s=60), timeout_s=10)  # never asked
        totals = itertools.count(0, cost or 0)
        measure = taken if cost is None else lambda _gpu: next(totals)
        opener = Opener(settings, devices={0: batcher}, measure=measure)
        served = Served()
        loader = Loader(opener, served, decoders=decoders, max_bytes=max_bytes)
        made.append((House(folder, served, loader, Watch((folder,), served, loader), opener), batcher))
        return made[-1][0]

    yield make
    for each, batcher in made:
        await each.loader.close()
        await each.opener.close_all()
        batcher.close()
