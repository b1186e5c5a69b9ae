"""CUDA graphs by the driver's own functions: PyCUDA has none for them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from service.errors import EngineError

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads' calls neither join in nor break it


class Graph:
    """Recorded work, launched again and again by one call. It is bound to the addresses that it was recorded with."""

    def __init__(self, stream: int, work: Callable[[], None]) -> None:
        """Record what `work` sends to `stream` (a handle), without running it. Raises EngineError where that is not possible."""
        driver = _driver()
        _check(driver.cuStreamBeginCapture_v2(stream, _THREAD_LOCAL), "cuStreamBeginCapture")
        graph = ctypes.c_void_p()
        try:
            work()
        except BaseException:  # the stream must leave capture whatever happened, or nothing runs on it any more
            if not driver.cuStreamEndCapture(stream, ctypes.byref(graph)):
                driver.cuGraphDestroy(graph)
            raise
        _check(driver.cuStreamEndCapture(stream, ctypes.byref(graph)), "cuStreamEndCapture")
        self._executable = ctypes.c_void_p()
        made = driver.cuGraphInstantiateWithFlags(ctypes.byref(self._executable), graph, ctypes.c_ulonglong(0))
        driver.cuGraphDestroy(graph)
        _check(made, "cuGraphInstantiate")

    def launch(self, stream: int) -> None:
        _check(_driver().cuGraphLaunch(self._executable, stream), "cuGraphLaunch")

    def close(self) -> None:
        _check(_driver().cuGraphExecDestroy(self._executable), "cuGraphExecDestroy")


@cache
def _driver() -> Any:
    library = ctypes.CDLL("libcuda.so.1")
    handle, pointer = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
    for name, arguments in {
        "cuStreamBeginCapture_v2": [handle, ctypes.c_int],
        "cuStreamEndCapture": [handle, pointer],
        "cuGraphInstantiateWithFlags": [pointer, handle, ctypes.c_ulonglong],
        "cuGraphLaunch": [handle, handle],
        "cuGraphExecDestroy": [handle],
        "cuGraphDestroy": [handle],
        "cuGetErrorName": [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)],
    }.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, ctypes.c_int
    return library


def _check(result: int, call: str) -> None:
    if result:
        name = ctypes.c_char_p()
        _driver().cuGetErrorName(result, ctypes.byref(name))
        raise EngineError(f"{call} failed: {(name.value or b'').decode() or 'unknown error'} ({result})")
