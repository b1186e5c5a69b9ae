"""Device and pinned memory, and copies; the buffers are whole and contiguous, as PyCUDA demands."""

from __future__ import annotations

import ctypes
import gc
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pycuda._context import Owned
from pycuda._library import MemoryError as CudaMemoryError
from pycuda._library import call, error, integer
from pycuda._stream import Stream, handle_of


class DeviceAllocation(Owned):
    kind = "device_allocation"

    def __init__(self, size: int) -> None:
        address = ctypes.c_uint64()
        try:
            call("cuMemAlloc_v2", ctypes.byref(address), size)
        except CudaMemoryError:  # mem_alloc_gc: another try after a collection
            gc.collect()
            call("cuMemAlloc_v2", ctypes.byref(address), size)
        super().__init__()
        self._address, self._valid = address.value, True

    def free(self) -> None:
        if not self._valid:
            raise error("device_allocation::free", 400)
        self._in_context("cuMemFree_v2", ctypes.c_void_p(self._address))
        self._valid = False

    def __int__(self) -> int:
        return self._address

    __index__ = __int__

    def __del__(self) -> None:
        if getattr(self, "_valid", False):
            self.free()


def mem_alloc(size: int) -> DeviceAllocation:
    return DeviceAllocation(integer(size))


def mem_get_info() -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


class HostPointer(Owned):
    _data: int

    def get_device_pointer(self) -> int:
        address = ctypes.c_uint64()
        call("cuMemHostGetDevicePointer_v2", ctypes.byref(address), ctypes.c_void_p(self._data), 0)
        return address.value


class PagelockedHostAllocation(HostPointer):
    kind = "pagelocked_host_allocation"

    def __init__(self, size: int, flags: int) -> None:
        data = ctypes.c_void_p()
        call("cuMemHostAlloc", ctypes.byref(data), size, flags)
        super().__init__()
        self._data, self._valid = data.value or 0, True

    def shape_as(self, dims: tuple[int, ...], kind: np.dtype[Any], order: str) -> None:
        """NumPy makes who offers an array's interface its base: so it is in PyCUDA."""
        steps = dims[::-1] if order == "C" else dims
        strides = [kind.itemsize * math.prod(steps[:axis]) for axis in range(len(dims))]
        self.__array_interface__ = {
            "version": 3,
            "shape": dims,
            "typestr": kind.str,
            "data": (self._data, False),
            "strides": tuple(strides[::-1] if order == "C" else strides),
        }

    def get_flags(self) -> int:
        flags = ctypes.c_uint()
        call("cuMemHostGetFlags", ctypes.byref(flags), ctypes.c_void_p(self._data))
        return flags.value

    def free(self) -> None:
        if not self._valid:
            raise error("pagelocked_host_allocation::free", 400)
        self._in_context("cuMemFreeHost", ctypes.c_void_p(self._data))
        self._valid = False

    def __del__(self) -> None:
        if getattr(self, "_valid", False):
            self.free()


HostAllocation = PagelockedHostAllocation


def pagelocked_empty(shape: int | Sequence[int], dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
    """An array whose `.base` is the PagelockedHostAllocation that frees its memory."""
    if order not in {"C", "F"}:
        raise error("numpy_empty", 1, "unrecognized order specifier")
    dims = (integer(shape),) if isinstance(shape, int) else tuple(integer(axis) for axis in shape)
    kind = np.dtype(dtype)
    allocation = PagelockedHostAllocation(kind.itemsize * math.prod(dims), mem_flags)
    allocation.shape_as(dims, kind, order)
    return np.asarray(allocation)


def _readable(source: Any) -> memoryview:
    view = memoryview(source)
    if not view.contiguous:
        raise ValueError("ndarray is not contiguous")
    return view


def _pointer(view: memoryview) -> int:
    return int(np.asarray(view).__array_interface__["data"][0])


def _writable(target: Any) -> memoryview:
    view = _readable(target)
    if view.readonly:
        raise BufferError("Object is not writable.")
    return view


def memcpy_htod(dest: int | DeviceAllocation, src: Any) -> None:
    view = _readable(src)
    call("cuMemcpyHtoD_v2", integer(dest), _pointer(view), view.nbytes)


def memcpy_htod_async(dest: int | DeviceAllocation, src: Any, stream: Stream | None = None) -> None:
    view = _readable(src)
    call("cuMemcpyHtoDAsync_v2", integer(dest), _pointer(view), view.nbytes, handle_of(stream))


def memcpy_dtoh(dest: Any, src: int | DeviceAllocation) -> None:
    view = _writable(dest)
    call("cuMemcpyDtoH_v2", _pointer(view), integer(src), view.nbytes)


def memcpy_dtoh_async(dest: Any, src: int | DeviceAllocation, stream: Stream | None = None) -> None:
    view = _writable(dest)
    call("cuMemcpyDtoHAsync_v2", _pointer(view), integer(src), view.nbytes, handle_of(stream))


def memcpy_dtod(dest: int | DeviceAllocation, src: int | DeviceAllocation, size: int) -> None:
    call("cuMemcpyDtoD_v2", integer(dest), integer(src), size)


def memcpy_dtod_async(
    dest: int | DeviceAllocation, src: int | DeviceAllocation, size: int, stream: Stream | None = None
) -> None:
    call("cuMemcpyDtoDAsync_v2", integer(dest), integer(src), size, handle_of(stream))


def memset_d8(dest: int | DeviceAllocation, data: int, size: int) -> None:
    call("cuMemsetD8_v2", integer(dest), data, size)


def memset_d8_async(dest: int | DeviceAllocation, data: int, size: int, stream: Stream | None = None) -> None:
    call("cuMemsetD8Async", integer(dest), data, size, handle_of(stream))
