"""Devices, and contexts with PyCUDA's own stack: it keeps at most one context on CUDA's stack and swaps it.

Told from cuda.hpp: what belongs to a context is released in it, from the thread that made it; elsewhere a warning is all.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import warnings
import weakref
from typing import ClassVar

from pycuda._library import call, clean_up, error

_living: weakref.WeakSet[Context] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    """C++ destroys what is left after everything else; registered at import, this is the last that Python calls."""
    for context in list(_living):
        context.__del__()


class Context:
    def __init__(self, handle: ctypes.c_void_p, device: int) -> None:
        self._handle, self._device = handle, device
        self._valid = True
        self._thread = threading.get_ident()
        _living.add(self)

    @property
    def handle(self) -> int:
        return self._handle.value or 0

    def push(self) -> None:
        _leave_current()
        call("cuCtxPushCurrent_v2", self._handle)
        _stack().append(self)

    @staticmethod
    def pop() -> None:
        _leave_current()
        if not _stack():
            raise error("context::pop", 201, "cannot pop non-current context")
        Context.get_current()
        if _stack():
            _stack().pop()
        if (below := Context.get_current()) is not None:
            call("cuCtxPushCurrent_v2", below._handle)

    @staticmethod
    def get_current(but: Context | None = None) -> Context | None:
        stack = _stack()
        while stack:
            if stack[-1]._valid and stack[-1] is not but:
                return stack[-1]
            stack.pop()
        return None

    @staticmethod
    def get_device() -> Device:
        device = ctypes.c_int()
        call("cuCtxGetDevice", ctypes.byref(device))
        return Device(device.value)

    @staticmethod
    def synchronize() -> None:
        call("cuCtxSynchronize")

    def get_api_version(self) -> int:
        version = ctypes.c_uint()
        call("cuCtxGetApiVersion", self._handle, ctypes.byref(version))
        return version.value

    def detach(self, release: str = "cuDevicePrimaryCtxRelease_v2") -> None:
        target = self._handle if release == "cuCtxDetach" else self._device
        if not self._valid:
            raise error("context::detach", 201, "cannot detach from invalid context")
        was_active = Context.get_current() is self
        if was_active:
            clean_up(release, target)
        elif self._thread == threading.get_ident():
            clean_up("cuCtxPushCurrent_v2", self._handle)
            clean_up(release, target)
        self._valid = False
        if was_active and (below := Context.get_current(self)) is not None:
            call("cuCtxPushCurrent_v2", below._handle)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self.handle == other.handle

    def __hash__(self) -> int:
        return self.handle ^ id(self)

    def __del__(self) -> None:
        # A C++ destructor calls the base class's virtual function: a primary context that is not detached before is not released.
        if getattr(self, "_valid", False):
            self.detach("cuCtxDetach")
            self._valid = False


class _Stack(list[Context]):
    def __del__(self) -> None:
        if self:
            sys.stderr.write("PyCUDA ERROR: The context stack was not empty upon module cleanup.\n")
            os.abort()


class _Threads(threading.local):
    def __init__(self) -> None:
        self.stack = _Stack()


_threads = _Threads()


def _stack() -> list[Context]:
    return _threads.stack


def _leave_current() -> None:
    if _stack():
        call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


class Owned:
    """Something that lives in the context that was current when it was made."""

    kind: ClassVar[str]

    def __init__(self) -> None:
        current = Context.get_current()
        if current is None:
            raise error("explicit_context_dependent", 201, "no currently active context?")
        self._context: Context = current

    def _in_context(self, name: str, *arguments: object) -> None:
        """Call a destructor in the context, if that can be: scoped_context_activation and its catch clauses."""
        context = self._context
        if not context._valid:
            return
        switch = Context.get_current() is not context
        if switch and context._thread != threading.get_ident():
            warnings.warn(f"{self.kind} in out-of-thread context could not be cleaned up", UserWarning, stacklevel=2)
            return
        if switch:
            context.push()
        clean_up(name, *arguments)
        if switch:
            Context.pop()


class Device:
    def __init__(self, which: int | str) -> None:
        device = ctypes.c_int()
        if isinstance(which, str):
            call("cuDeviceGetByPCIBusId", ctypes.byref(device), which.encode())
        else:
            call("cuDeviceGet", ctypes.byref(device), which)
        self._device = device.value

    @staticmethod
    def count() -> int:
        count = ctypes.c_int()
        call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    def name(self) -> str:
        text = ctypes.create_string_buffer(1024)
        call("cuDeviceGetName", text, 1024, self._device)
        return text.value.decode()

    def pci_bus_id(self) -> str:
        text = ctypes.create_string_buffer(1024)
        call("cuDeviceGetPCIBusId", text, 1024, self._device)
        return text.value.decode()

    def compute_capability(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        call("cuDeviceComputeCapability", ctypes.byref(major), ctypes.byref(minor), self._device)
        return major.value, minor.value

    def total_memory(self) -> int:
        total = ctypes.c_size_t()
        call("cuDeviceTotalMem_v2", ctypes.byref(total), self._device)
        return total.value

    def get_attribute(self, attribute: int) -> int:
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), int(attribute), self._device)
        return value.value

    def retain_primary_context(self) -> Context:
        handle = ctypes.c_void_p()
        call("cuDevicePrimaryCtxRetain", ctypes.byref(handle), self._device)
        return Context(handle, self._device)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self._device == other._device

    def __hash__(self) -> int:
        return self._device
