"""An engine is measured as the service uses it: the same batches, two under way where it can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from service.bench.subject import EngineSubject
from service.bundle.manifest import Stage
from service.engine.base import EngineInfo, Outputs, Overlapping
from service.engine.select import Opened
from service.errors import EngineError


class Recorder:
    """An engine at the seam: features are a frame's first byte; it remembers what it was asked for."""

    def __init__(self, max_batch: int = 16) -> None:
        self.info = EngineInfo("recorder", "fp16", "fp16", "nowhere", max_batch)
        self.calls: list[tuple[str, int]] = []

    def run(self, stage: Stage, rows: np.ndarray) -> Outputs:
        self.calls.append((stage, len(rows)))
        return self._outputs(stage, rows)

    @staticmethod
    def _outputs(stage: Stage, rows: np.ndarray) -> Outputs:
        values = rows.reshape(len(rows), -1)[:, :1].astype(np.float32) if stage == "encoder" else rows.sum(axis=1)
        return {"features" if stage == "encoder" else "probabilities": values}

    def close(self) -> None:
        self.calls.append(("close", 0))


class Pipelined(Recorder):
    """One that overlaps: it must never have more than two batches under way, and is waited for in order."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: list[int] = []
        self.most = 0
        self.fails_at: int | None = None

    def begin(self, stage: Stage, blocks: Sequence[np.ndarray], *, bucket: int) -> Callable[[], Outputs]:
        rows = np.concatenate(list(blocks))
        number = len(self.calls)
        if number == self.fails_at:
            raise EngineError("the fourth batch fails")
        self.calls.append(("begin", bucket))
        self.under_way.append(number)
        self.most = max(self.most, len(self.under_way))

        def wait() -> Outputs:
            assert self.under_way.pop(0) == number
            return self._outputs(stage, rows)

        return wait


FRAMES = np.arange(29, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)


@pytest.mark.parametrize(
    ("engine", "batches"), [(Recorder(), [16, 16]), (Pipelined(), [29])], ids=["cut", "cuts itself"]
)
def test_a_clip_is_cut_into_the_services_batches_and_comes_back_in_order(engine: Recorder, batches: list[int]) -> None:
    subject = EngineSubject(Opened(engine, 0.0, ()))
    assert subject.features(FRAMES).ravel().tolist() == list(range(29))
    assert [rows for _, rows in engine.calls] == batches, "13 left over run as 16"
    assert subject.clip(FRAMES).run().tolist() == [[sum(range(29))]]


def test_where_the_engine_overlaps_two_batches_are_under_way_and_none_afterwards() -> None:
    engine = Pipelined()
    assert isinstance(engine, Overlapping)
    task = EngineSubject(Opened(engine, 0.0, ())).overlapped(FRAMES[:4])
    assert task is not None
    task.warm()
    assert engine.most == 2
    assert engine.calls == [("begin", 4)] * 4, "one more than runs: the first is under way before them"
    assert engine.under_way == []


def test_a_batch_that_fails_leaves_none_under_way() -> None:
    engine = Pipelined()
    task = EngineSubject(Opened(engine, 0.0, ())).overlapped(FRAMES[:4])
    assert task is not None
    engine.fails_at = 3
    with pytest.raises(EngineError, match="the fourth"):
        task.warm()
    assert engine.under_way == []


def test_an_engine_that_cannot_overlap_has_no_such_task() -> None:
    assert EngineSubject(Opened(Recorder(), 0.0, ())).overlapped(FRAMES) is None
