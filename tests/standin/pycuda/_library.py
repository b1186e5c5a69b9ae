"""libcuda.so.1 through ctypes, and PyCUDA's errors: which code raises which class (`translate_cuda_error` of its source)."""

from __future__ import annotations

import ctypes
import sys

library = ctypes.CDLL("libcuda.so.1")
for _name in ("cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuMemcpyDtoD_v2"):
    getattr(library, _name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
for _name in ("cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2"):
    getattr(library, _name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
library.cuMemsetD8_v2.argtypes = [ctypes.c_void_p, ctypes.c_ubyte, ctypes.c_size_t]
library.cuMemsetD8Async.argtypes = [ctypes.c_void_p, ctypes.c_ubyte, ctypes.c_size_t, ctypes.c_void_p]
library.cuMemAlloc_v2.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
library.cuMemHostAlloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]


class Error(Exception):
    __module__ = "pycuda._driver"


class MemoryError(Error):  # noqa: A001  # PyCUDA's name
    __module__ = "pycuda._driver"


class LogicError(Error):
    __module__ = "pycuda._driver"


class LaunchError(Error):
    __module__ = "pycuda._driver"


class RuntimeError(Error):  # noqa: A001  # PyCUDA's name
    __module__ = "pycuda._driver"


_CLASSES = {
    **dict.fromkeys((719, 701, 702, 703), LaunchError),
    2: MemoryError,
    **dict.fromkeys((100, 209, 301, 600, 214), RuntimeError),
    999: Error,
}


def message(routine: str, code: int, text: str = "") -> str:
    said = ctypes.c_char_p()
    library.cuGetErrorString(code, ctypes.byref(said))
    return f"{routine} failed: {(said.value or b'unknown').decode()}" + (f" - {text}" if text else "")


def error(routine: str, code: int, text: str = "") -> Error:
    return _CLASSES.get(code, LogicError)(message(routine, code, text))


def call(name: str, *arguments: object, routine: str = "") -> None:
    """Call a driver function; `routine` is the name without `_v2` that PyCUDA's messages show."""
    if code := getattr(library, name)(*arguments):
        raise error(routine or name.split("_v", maxsplit=1)[0], code)


def clean_up(name: str, *arguments: object) -> None:
    """As `call`, for destructors: a failure is only printed, as PyCUDA does."""
    if code := getattr(library, name)(*arguments):
        warning = "PyCUDA WARNING: a clean-up operation failed (dead context maybe?)"
        sys.stderr.write(f"{warning}\n{message(name.split('_v', maxsplit=1)[0], code)}\n")


def integer(value: object) -> int:
    """Boost takes Python's own integers and PyCUDA's allocations, not NumPy's integers."""
    if isinstance(value, int) or (type(value).__module__.startswith("pycuda.") and hasattr(value, "__index__")):
        return int(value)
    raise TypeError(f"Python argument types did not match C++ signature: {type(value).__name__}")
