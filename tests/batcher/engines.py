"""Engines at the batcher's seam that compute next to nothing: they count, wait and fail on command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from service.bundle.manifest import Stage
from service.engine.base import EngineInfo, Outputs
from service.errors import DeviceLost


class FakeEngine:
    """Doubles what it is given; holds each run until `gate` is open."""

    info = EngineInfo("fake", "fp32", "fp32", "none")

    def __init__(self) -> None:
        self.batches: list[tuple[Stage, int]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fail = False
        self.drop_a_row = False

    def run(self, stage: Stage, rows: np.ndarray) -> dict[str, np.ndarray]:
        self.entered.set()
        self.gate.wait(timeout=10)
        self.batches.append((stage, len(rows)))
        self.threads.add(threading.get_ident())
        if self.fail:
            raise ZeroDivisionError("the device is on fire")
        doubled = rows.astype(np.float32) * 2
        return {"features": doubled[:-1] if self.drop_a_row else doubled}

    def close(self) -> None: ...


class FakePair(FakeEngine):
    """An encoder that doubles, and a head that sums each clip up."""

    def run(self, stage: Stage, rows: np.ndarray) -> dict[str, np.ndarray]:
        outputs = super().run(stage, rows)
        return outputs if stage == "encoder" else {"probabilities": rows.sum(axis=(1, 2))[:, None]}


class FakeClipEngine(FakeEngine):
    """A clip network whose batches hold four clips."""

    info = EngineInfo("fake", "fp32", "fp32", "none", 4, ("clip",))

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def run(self, stage: Stage, rows: np.ndarray) -> dict[str, np.ndarray]:
        self.shapes.append(rows.shape)
        return {"probabilities": super().run(stage, rows)["features"].mean(axis=(1, 2))[:, None]}


class FakeGpu(FakeEngine):
    """Works on its own: what was begun is computed when it is waited for, and only while `gate` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, int]] = []
        self.lost = False

    def begin(self, stage: Stage, blocks: Sequence[np.ndarray], *, bucket: int) -> Callable[[], Outputs]:
        if self.lost:
            raise DeviceLost("GPU 0 has failed; restart the service")
        rows = np.concatenate(blocks)
        self.log.append(("begin", len(rows)))
        self.entered.set()
        assert len(rows) <= bucket
        under_way = sum(1 if what == "begin" else -1 for what, _ in self.log)
        assert under_way <= 2, "more than two batches under way"

        def finish() -> Outputs:
            outputs = self.run(stage, rows)
            self.log.append(("finish", len(rows)))
            return outputs

        return finish
