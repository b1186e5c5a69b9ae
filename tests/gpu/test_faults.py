"""What must not happen happens: it is one sentence, and the engine goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.engine.cuda import Device
from service.engine.golden import prove
from service.engine.network import SLOTS
from service.engine.trt import TensorRtEngine
from service.errors import DeviceLost, EngineError
from tests.gpu.alike import same
from tests.gpu.media import frames_for

Open = Callable[..., Any]
_LEAST = 16 * 2**20  # bytes; less than any engine needs


@pytest.fixture(scope="module")
def engine(fight: Bundle, opening: Open) -> Iterator[TensorRtEngine]:
    with opening(fight, "int8") as opened:
        yield opened


@pytest.fixture(scope="module")
def frames(fight: Bundle) -> NDArray[np.uint8]:
    return frames_for(fight, 65, seed=3)


@pytest.fixture(autouse=True)
def still_works(engine: TensorRtEngine, fight: Bundle) -> Iterator[None]:
    """After each of these the engine must answer as before."""
    before = prove(engine, fight)
    yield
    assert prove(engine, fight) == pytest.approx(before, abs=1e-3)


def test_a_batch_past_the_largest_is_refused(engine: TensorRtEngine, frames: NDArray[np.uint8]) -> None:
    with pytest.raises(EngineError, match=r"takes no rows \[65, .*at most \[64, "):
        engine.begin("encoder", [frames], bucket=65)


def test_a_clip_past_the_longest_is_refused(engine: TensorRtEngine, fight: Bundle) -> None:
    longest, dim = fight.manifest.sampling.max_frames, fight.manifest.network.feature_dim
    with pytest.raises(
        EngineError, match=rf"takes no rows \[1, {longest + 1}, {dim}\], at most \[64, {longest}, {dim}\]"
    ):
        engine.run("head", np.zeros((1, longest + 1, dim or 0), np.float32))


def test_frames_of_another_size_are_refused(engine: TensorRtEngine) -> None:
    with pytest.raises(EngineError, match=r"takes no rows \[1, 8, 8, 3\]"):
        engine.begin("encoder", [np.zeros((1, 8, 8, 3), np.uint8)], bucket=1)


def test_one_batch_more_than_there_are_slots_is_refused_and_spoils_none(
    engine: TensorRtEngine, frames: NDArray[np.uint8]
) -> None:
    batches = [frames[index * 4 : index * 4 + 4] for index in range(SLOTS)]
    expected = [engine.begin("encoder", [batch], bucket=4)()["features"] for batch in batches]
    waiting = [engine.begin("encoder", [batch], bucket=4) for batch in batches]
    with pytest.raises(EngineError, match=f"{SLOTS} batches are under way"):
        engine.begin("encoder", [frames[:4]], bucket=4)
    for wait, wanted in zip(waiting, expected, strict=True):
        same(wait()["features"], wanted)


def test_another_thread_is_refused(engine: TensorRtEngine, frames: NDArray[np.uint8]) -> None:
    raised: list[BaseException] = []

    def call() -> None:
        try:
            engine.run("encoder", frames[:1])
        except EngineError as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "another thread than the one that opened it; use the device thread" in str(raised[0])


@pytest.fixture
def exhausted(gpu: Device) -> Iterator[None]:
    """Nearly all memory of the GPU is taken: what is left is less than an engine needs."""
    taken, size = [], 1 << 40
    with gpu.current():
        free = gpu.free_bytes()
        while size >= _LEAST:
            try:
                if free > size:
                    taken.append(gpu._driver.mem_alloc(size))
                    free = gpu.free_bytes()
                    continue
            except gpu._driver.MemoryError:
                pass
            size //= 2
    yield
    with gpu.current():
        for each in taken:
            each.free()


def test_without_memory_an_engine_is_refused_in_a_sentence_and_others_go_on(
    engine: TensorRtEngine, frames: NDArray[np.uint8], exhausted: None, imagenet: Bundle, opening: Open
) -> None:
    with pytest.raises(EngineError, match=r"(?i)memory|alloc") as refusal, opening(imagenet, "int8"):
        pass
    assert not isinstance(refusal.value, DeviceLost)
    # What was open before still has all that it needs.
    assert len(engine.run("encoder", frames[:64])["features"]) == 64


def test_what_ran_out_of_memory_opens_once_there_is_some(imagenet: Bundle, opening: Open) -> None:
    with opening(imagenet, "int8") as engine:
        assert prove(engine, imagenet) <= imagenet.manifest.golden.tolerance["int8"]
