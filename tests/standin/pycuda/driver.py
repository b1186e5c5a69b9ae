"""`pycuda.driver`: the names and semantics of PyCUDA 2026.1, over libcuda.so.1 by ctypes. Importing it needs the library."""

from __future__ import annotations

import ctypes
from enum import IntEnum

from pycuda._context import Context, Device
from pycuda._library import Error, LaunchError, LogicError, MemoryError, RuntimeError, call  # noqa: A004
from pycuda._memory import (
    DeviceAllocation,
    HostAllocation,
    HostPointer,
    PagelockedHostAllocation,
    mem_alloc,
    mem_get_info,
    memcpy_dtod,
    memcpy_dtod_async,
    memcpy_dtoh,
    memcpy_dtoh_async,
    memcpy_htod,
    memcpy_htod_async,
    memset_d8,
    memset_d8_async,
    pagelocked_empty,
)
from pycuda._stream import Event, Stream

__all__ = [
    "Context", "Device", "DeviceAllocation", "Error", "Event", "HostAllocation", "HostPointer", "LaunchError", "LogicError",
    "MemoryError", "PagelockedHostAllocation", "RuntimeError", "Stream", "ctx_flags", "device_attribute", "event_flags",
    "get_driver_version", "get_version", "host_alloc_flags", "init", "mem_alloc", "mem_get_info", "memcpy_dtod",
    "memcpy_dtod_async", "memcpy_dtoh", "memcpy_dtoh_async", "memcpy_htod", "memcpy_htod_async", "memset_d8",
    "memset_d8_async", "pagelocked_empty",
]  # fmt: skip


class event_flags(IntEnum):  # noqa: N801  # PyCUDA's name, as below
    DEFAULT = 0
    BLOCKING_SYNC = 1
    DISABLE_TIMING = 2
    INTERPROCESS = 4


class ctx_flags(IntEnum):  # noqa: N801
    SCHED_AUTO = 0
    SCHED_SPIN = 1
    SCHED_YIELD = 2
    SCHED_BLOCKING_SYNC = 4
    BLOCKING_SYNC = 4
    SCHED_MASK = 7
    MAP_HOST = 8
    LMEM_RESIZE_TO_MAX = 16


class device_attribute(IntEnum):  # noqa: N801
    MAX_THREADS_PER_BLOCK = 1
    WARP_SIZE = 10
    CLOCK_RATE = 13
    MULTIPROCESSOR_COUNT = 16
    INTEGRATED = 18
    CAN_MAP_HOST_MEMORY = 19
    PCI_BUS_ID = 33
    PCI_DEVICE_ID = 34
    ASYNC_ENGINE_COUNT = 40
    UNIFIED_ADDRESSING = 41
    COMPUTE_CAPABILITY_MAJOR = 75
    COMPUTE_CAPABILITY_MINOR = 76


class host_alloc_flags:  # noqa: N801
    PORTABLE = 1
    DEVICEMAP = 2
    WRITECOMBINED = 4


def init(flags: int = 0) -> None:
    call("cuInit", flags)


def get_version() -> tuple[int, int, int]:
    """The toolkit that PyCUDA was compiled with."""
    return (13, 0, 0)


def get_driver_version() -> int:
    version = ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(version))
    return version.value
