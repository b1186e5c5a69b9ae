"""The stand-in driver, as TensorRT's own code would use the real one."""

from __future__ import annotations

import ctypes
import itertools
import sys
import traceback
from collections.abc import Callable

_library = ctypes.CDLL("libcuda.so.1")
_library.standin_memory.restype = ctypes.c_void_p
_library.standin_memory.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_library.standin_enqueue.argtypes = [ctypes.c_void_p, _CALLBACK, ctypes.c_void_p]
_library.cuMemFree_v2.argtypes = [ctypes.c_uint64]
_library.cuMemAlloc_v2.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_library.cuStreamIsCapturing.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_library.cuStreamSynchronize.argtypes = [ctypes.c_void_p]


class Failed(Exception):
    """The driver refused; TensorRT says so in its log, and gives nothing."""


ILLEGAL_ADDRESS, LAUNCH_FAILED = 700, 719
_jobs: dict[int, Callable[[], int]] = {}
_numbers = itertools.count(1)


def has_context() -> bool:
    context = ctypes.c_void_p()
    return _library.cuCtxGetCurrent(ctypes.byref(context)) == 0 and bool(context.value)


def device() -> tuple[str, str, int]:
    """Name, compute capability and driver version of the current context's device."""
    number, name, major, minor = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
    version = ctypes.c_int()
    if code := _library.cuCtxGetDevice(ctypes.byref(number)):
        raise Failed(f"Cuda Runtime (cudaError {code})")
    _library.cuDeviceGetName(name, 256, number)
    _library.cuDeviceComputeCapability(ctypes.byref(major), ctypes.byref(minor), number)
    _library.cuDriverGetVersion(ctypes.byref(version))
    return name.value.decode(), f"{major.value}.{minor.value}", version.value


def allocate(nbytes: int) -> int:
    address = ctypes.c_uint64()
    code = _library.cuMemAlloc_v2(ctypes.byref(address), nbytes)
    if code:
        what = "OutOfMemory" if code == 2 else "Cuda Runtime"
        raise Failed(f"{what} (cudaError {code}, cudaMalloc of {nbytes} bytes)")
    return address.value


def free(address: int) -> int:
    return int(_library.cuMemFree_v2(address))


def memory(address: int, nbytes: int) -> ctypes.Array[ctypes.c_char] | None:
    """The bytes at a device address; None where not all of them are allocated."""
    found = _library.standin_memory(address, nbytes)
    return (ctypes.c_char * nbytes).from_address(found) if found else None


def capturing(stream: int) -> bool:
    status = ctypes.c_int()
    return _library.cuStreamIsCapturing(stream, ctypes.byref(status)) == 0 and status.value != 0


def synchronize(stream: int) -> int:
    return int(_library.cuStreamSynchronize(stream))


def enqueue(stream: int, work: Callable[[], int], *, once: bool) -> tuple[int, int]:
    """Queue `work` (it gives 0 or an error code); returns the driver's answer and the number for `forget`."""
    number = next(_numbers)

    def job() -> int:
        if once:
            _jobs.pop(number, None)
        return work()

    _jobs[number] = job
    code = int(_library.standin_enqueue(stream, _run, number))
    if code:
        _jobs.pop(number)
    return code, number


def forget(numbers: set[int]) -> None:
    """Their execution context is gone: who runs them now would read freed memory."""
    for number in numbers:
        _jobs.pop(number, None)


@_CALLBACK
def _run(number: int) -> int:
    job = _jobs.get(number)
    if job is None:
        sys.stderr.write("stand-in: work of an execution context that is gone\n")
        return ILLEGAL_ADDRESS
    try:
        return job()
    except BaseException:  # noqa: BLE001  # nothing may pass through C
        traceback.print_exc()
        return LAUNCH_FAILED
