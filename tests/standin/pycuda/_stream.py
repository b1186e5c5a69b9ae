"""Streams and events."""

from __future__ import annotations

import ctypes

from pycuda._context import Owned
from pycuda._library import call, error, library


def _done(name: str, handle: ctypes.c_void_p) -> bool:
    code = getattr(library, name)(handle)
    if code not in {0, 600}:
        raise error(name, code)
    return bool(code == 0)


class Stream(Owned):
    kind = "stream"

    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        self._stream = ctypes.c_void_p()
        call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(flags))

    @property
    def handle(self) -> int:
        return self._stream.value or 0

    def synchronize(self) -> None:
        call("cuStreamSynchronize", self._stream)

    def is_done(self) -> bool:
        return _done("cuStreamQuery", self._stream)

    def wait_for_event(self, event: Event) -> None:
        call("cuStreamWaitEvent", self._stream, event._event, 0)

    def __del__(self) -> None:
        if getattr(self, "_stream", None):
            self._in_context("cuStreamDestroy_v2", self._stream)


def handle_of(stream: Stream | None) -> ctypes.c_void_p:
    if stream is None:
        return ctypes.c_void_p(0)
    if not isinstance(stream, Stream):
        raise TypeError("No registered converter was able to produce a C++ rvalue of type pycuda::stream")
    return stream._stream


class Event(Owned):
    kind = "event"

    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        self._event = ctypes.c_void_p()
        call("cuEventCreate", ctypes.byref(self._event), ctypes.c_uint(int(flags)))

    def record(self, stream: Stream | None = None) -> Event:
        call("cuEventRecord", self._event, handle_of(stream))
        return self

    def synchronize(self) -> Event:
        call("cuEventSynchronize", self._event)
        return self

    def query(self) -> bool:
        return _done("cuEventQuery", self._event)

    def time_since(self, start: Event) -> float:
        milliseconds = ctypes.c_float()
        call("cuEventElapsedTime_v2", ctypes.byref(milliseconds), start._event, self._event)
        return milliseconds.value

    def time_till(self, end: Event) -> float:
        return end.time_since(self)

    def __del__(self) -> None:
        if getattr(self, "_event", None):
            self._in_context("cuEventDestroy_v2", self._event)
