"""One GPU through PyCUDA: memory comes and goes, work is waited for, and what CUDA complains of is told in words."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.engine.capture import Graph
from service.engine.cuda import Device, load_driver
from service.errors import DeviceLost, EngineError, EngineUnavailable


@pytest.fixture
def count() -> Callable[[str], int]:
    """A counter of the stand-in driver by its name."""
    library = ctypes.CDLL("libcuda.so.1")
    library.standin_count.restype = ctypes.c_long
    return lambda name: int(library.standin_count(name.encode()))


@pytest.mark.standin
def test_a_device_says_what_it_is_and_is_opened_once_for_the_process() -> None:
    device = Device.open(0)
    assert (device.name, device.compute_capability, device.pci_bus_id) == ("Stand-in GPU", "9.0", "0000:01:00.0")
    assert Device.open(0) is device


@pytest.mark.standin
@pytest.mark.parametrize("ordinal", [1, -1])
def test_a_gpu_that_is_not_there_is_refused_with_how_many_there_are(ordinal: int) -> None:
    with pytest.raises(EngineUnavailable, match=f"there is no GPU {ordinal}: CUDA sees 1, .* correct --devices"):
        Device.open(ordinal)


@pytest.mark.standin(STANDIN_GPUS="0")
def test_a_driver_without_a_gpu_is_refused_with_what_cuda_says() -> None:
    with pytest.raises(EngineUnavailable, match=r"CUDA does not start \(.*no CUDA-capable device.*nvidia-smi"):
        Device.open(0)


@pytest.mark.standin
def test_a_buffer_goes_there_and_back_once_it_is_waited_for(count: Callable[[str], int]) -> None:
    device = Device.open(0)
    with device.current():
        stream, there, back = device.stream(), device.buffer(12), device.buffer(12)
        there.view((3,), np.dtype(np.float32))[:] = (1, 2, 3)
        there.upload(12, stream)
        there.download(12, stream)
        there.host[:] = 0
        stream.synchronize()
        assert there.host.tolist() == [0] * 12, "the copy ran when it was waited for, and not before"
        there.view((3,), np.dtype(np.float32))[:] = (1, 2, 3)
        there.upload(12, stream)
        stream.synchronize()
        there.host[:] = 0
        there.download(12, stream)
        stream.synchronize()
        assert there.view((3,), np.dtype(np.float32)).tolist() == [1, 2, 3]
        there.free()
        back.free()
        del stream
    assert (count("device_bytes"), count("pinned_bytes"), count("streams")) == (0, 0, 0)


@pytest.mark.standin
def test_too_much_memory_is_refused_in_words_and_the_device_goes_on() -> None:
    device = Device.open(0)
    with (
        pytest.raises(EngineError, match=r"GPU 0 \(Stand-in GPU\) is out of memory .*serve fewer models") as error,
        device.current(),
    ):
        device.memory(2**40)
    assert not isinstance(error.value, DeviceLost)
    with device.current():
        device.memory(2**20).free()


@pytest.mark.standin
def test_a_call_that_cuda_refuses_is_told_and_the_device_goes_on() -> None:
    device = Device.open(0)
    with device.current():
        buffer, stream = device.buffer(8), device.stream()
    with (
        pytest.raises(
            EngineError, match=r"CUDA failed on GPU 0 \(Stand-in GPU\): cuMemcpyHtoDAsync failed: invalid"
        ) as error,
        device.current(),
    ):
        device._driver.memcpy_htod_async(buffer.address + 4, buffer.host, stream)
    assert not isinstance(error.value, DeviceLost)
    with device.current():
        buffer.upload(8, stream)
        stream.synchronize()
        buffer.free()
        del stream, error  # whose traceback holds the stream, too
        gc.collect()


@pytest.mark.standin
def test_a_device_can_be_used_on_many_threads(count: Callable[[str], int]) -> None:
    device = Device.open(0)

    def work(_: int) -> None:
        with device.current():
            buffer, stream = device.buffer(4), device.stream()
            buffer.host[:] = 7
            buffer.upload(4, stream)
            stream.synchronize()
            buffer.free()
            del stream

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(64)))
    assert (count("device_bytes"), count("pinned_bytes"), count("streams")) == (0, 0, 0)


@pytest.mark.standin
def test_nothing_works_outside_of_the_context() -> None:
    device = Device.open(0)
    with pytest.raises(load_driver().LogicError, match="invalid device context"):
        device.memory(8)


@pytest.mark.standin
def test_a_graph_is_recorded_without_running_and_launched_with_what_is_there_then(count: Callable[[str], int]) -> None:
    device = Device.open(0)
    with device.current():
        stream, source, target = device.stream(), device.buffer(4), device.buffer(4)

        def work() -> None:
            source.upload(4, stream)
            device._driver.memcpy_dtod_async(target._device, source._device, 4, stream)
            target.download(4, stream)

        target.host[:] = 9
        before = count("launches")
        graph = Graph(stream.handle, work)
        stream.synchronize()
        assert target.host.tolist() == [9] * 4
        for value in (1, 2):
            source.host[:] = value
            graph.launch(stream.handle)
            stream.synchronize()
            assert target.host.tolist() == [value] * 4
        graph.close()
        source.free()
        target.free()
        stream = work = None
    assert (count("graphs"), count("execs"), count("launches") - before) == (0, 0, 2)


@pytest.mark.standin
def test_a_recording_that_fails_leaves_the_stream_in_use(count: Callable[[str], int]) -> None:
    device = Device.open(0)
    with device.current():
        stream, buffer = device.stream(), device.buffer(4)

        def breaks() -> None:
            buffer.upload(4, stream)
            raise EngineError("broke half way")

        with pytest.raises(EngineError, match="broke half way"):
            Graph(stream.handle, breaks)
        with pytest.raises(EngineError, match="cuStreamEndCapture failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
            Graph(stream.handle, lambda: _ignored(stream.synchronize))
        buffer.upload(4, stream)
        stream.synchronize()
        buffer.free()
        stream = breaks = None
    gc.collect()
    assert (count("graphs"), count("execs"), count("streams")) == (0, 0, 0)


@pytest.mark.standin(STANDIN_NO_CAPTURE="1")
def test_where_nothing_can_be_recorded_the_error_says_so_and_the_stream_stays_in_use() -> None:
    device = Device.open(0)
    with device.current():
        stream, buffer = device.stream(), device.buffer(4)
        with pytest.raises(
            EngineError, match=r"cuStreamEndCapture failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED \(900\)"
        ):
            Graph(stream.handle, lambda: buffer.upload(4, stream))
        buffer.upload(4, stream)
        stream.synchronize()
        buffer.free()
        stream = None


def test_a_missing_pycuda_and_a_missing_driver_are_told_apart(machine) -> None:
    code = "from service.engine.cuda import load_driver\ntry: load_driver()\nexcept Exception as e: print(type(e).__name__, e)"
    environment = {**os.environ, **machine.variables()}
    del environment["LD_LIBRARY_PATH"]
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("EngineUnavailable pycuda finds no NVIDIA driver (libcuda.so.1")
    assert "--gpus all" in result.stdout
    environment["PYTHONPATH"] = environment["PYTHONPATH"].split(os.pathsep)[-1]
    blocked = f"import sys; sys.modules['pycuda'] = None\n{code}"
    result = subprocess.run(
        [sys.executable, "-c", blocked], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("EngineUnavailable pycuda is not installed; run make gpu")


def _ignored(call: Callable[[], object]) -> None:
    with pytest.raises(load_driver().Error):
        call()
