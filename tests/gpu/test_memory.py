"""Engines give back what they took: on the device, of pinned memory, in whatever order they are closed."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle.store import Bundle
from service.engine.cuda import Device
from service.engine.golden import probabilities, prove
from service.engine.network import SLOTS
from service.engine.trt import TensorRtEngine
from tests.gpu.alike import same
from tests.gpu.media import frames_for

Open = Callable[..., Any]
_TIMES, _FIRST = 50, 5
# What the driver may keep for itself over 50 openings. One engine takes more than that, so a leak of each would be far above.
_SLACK = 64 * 2**20
_HOST_SLACK = 256 * 2**20


def free(gpu: Device) -> int:
    gc.collect()
    with gpu.current():
        return gpu.free_bytes()


def resident() -> int:
    """Bytes of this process in memory: pinned memory counts here."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(480)
def test_fifty_openings_leave_no_memory_behind(
    fight: Bundle, gpu: Device, opening: Open, record: Callable[..., None]
) -> None:
    taken, left, host = 0, [], []
    for _ in range(_FIRST + _TIMES):
        before = free(gpu)
        with opening(fight, "int8") as engine:
            taken = before - free(gpu)
            engine.run("encoder", np.zeros((1, *fight.golden().frames.shape[2:]), np.uint8))
        del engine
        left.append(free(gpu))
        host.append(resident())
    record(
        engine_bytes=taken,
        lost_bytes=left[_FIRST - 1] - left[-1],
        host_bytes_more=host[-1] - host[_FIRST - 1],
        openings=_TIMES,
    )
    assert left[_FIRST - 1] - left[-1] <= _SLACK
    assert host[-1] - host[_FIRST - 1] <= _HOST_SLACK


def test_two_bundles_share_a_device_and_each_gives_its_own_answers(
    fight: Bundle, imagenet: Bundle, opening: Open
) -> None:
    with opening(fight, "int8") as one, opening(imagenet, "int8") as other:
        expected = [probabilities(engine, b.golden().frames[:1]) for engine, b in ((one, fight), (other, imagenet))]
        for _ in range(10):
            for (engine, bundle), wanted in zip(((one, fight), (other, imagenet)), expected, strict=True):
                found = probabilities(engine, bundle.golden().frames[:1])
                assert found == pytest.approx(wanted, abs=1e-3)
        batch, second = frames_for(fight, 16, seed=1), frames_for(imagenet, 16, seed=1)
        alone = one.run("encoder", batch)["features"], other.run("encoder", second)["features"]
        waiting = one.begin("encoder", [batch], bucket=16), other.begin("encoder", [second], bucket=16)
        for wait, wanted in zip(waiting, alone, strict=True):
            same(wait()["features"], wanted)


@pytest.mark.parametrize("first", ["fight", "imagenet"])
def test_closing_one_of_two_leaves_the_other_running(
    first: str, fight: Bundle, imagenet: Bundle, gpu: Device, place: Any
) -> None:
    bundles = {"fight": fight, "imagenet": imagenet}
    last = next(name for name in bundles if name != first)
    before = free(gpu)
    running = {name: TensorRtEngine(bundle, precision="int8", place=place) for name, bundle in bundles.items()}
    try:
        running.pop(first).close()
        assert prove(running[last], bundles[last]) <= bundles[last].manifest.golden.tolerance["int8"]
        running[first] = TensorRtEngine(bundles[first], precision="int8", place=place)
        assert prove(running[first], bundles[first]) <= bundles[first].manifest.golden.tolerance["int8"]
        assert prove(running[last], bundles[last]) <= bundles[last].manifest.golden.tolerance["int8"]
    finally:
        for engine in running.values():
            engine.close()
    running.clear()
    del engine
    assert before - free(gpu) <= _SLACK


def test_an_engine_is_closed_with_batches_under_way_and_again(fight: Bundle, gpu: Device, opening: Open) -> None:
    frames = frames_for(fight, 64, seed=2)
    with opening(fight, "int8"):  # so that what the driver loads at the first time is loaded
        pass
    before = free(gpu)
    with opening(fight, "int8") as engine:
        waiting = [engine.begin("encoder", [frames], bucket=64) for _ in range(SLOTS)]
        engine.close()
    engine.close()
    del engine, waiting
    assert before - free(gpu) <= _SLACK
