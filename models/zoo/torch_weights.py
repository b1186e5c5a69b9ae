"""Read weights that torch saved in its legacy format, with NumPy alone.

The file is a magic number, a protocol number and the system's type sizes, each a pickle; a pickle of the state dict, in which
every tensor names its storage; a pickled list of the storage keys; then for each key the number of elements (int64) and the
raw values. The strides may be any, so tensors are views taken with `as_strided`: a reshape would silently shuffle them.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from models.errors import WeightsError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}


class _StateDict(pickle.Unpickler):
    """Knows an ordered dict, a tensor and the storages above; anything else in the pickle is refused, never called."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, NDArray[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a state dict")

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        kind, dtype, key, _device, size, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"{kind!r} with view {view!r} is no plain storage")
        return self.storages.setdefault(str(key), np.empty(size, dtype))


def read_torch_weights(path: str | Path) -> dict[str, NDArray[Any]]:
    """Every tensor of the state dict in `path` by its name; raises WeightsError where the file is not of that format."""
    with Path(path).open("rb") as file:
        try:
            tensors = _read(file)
        except (pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError, struct.error) as error:
            raise WeightsError(
                f"{path} is no state dict in torch's legacy format ({error}); install the package again"
            ) from None
    return {name: _view(*tensor, name=name) for name, tensor in tensors.items()}


def _read(file: BinaryIO) -> dict[str, Any]:
    magic, protocol, _sizes = (_Plain(file).load() for _ in range(3))
    if (magic, protocol) != (_MAGIC, _PROTOCOL):
        raise pickle.UnpicklingError("the magic number is another")
    reader = _StateDict(file)
    tensors: dict[str, Any] = reader.load()
    for key in _Plain(file).load():
        storage = reader.storages[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(storage.nbytes)
        if count != storage.size or len(data) != storage.nbytes:
            raise pickle.UnpicklingError(f"storage {key} holds {count} values, {storage.size} are named")
        storage[:] = np.frombuffer(data, storage.dtype)
    return tensors


class _Plain(pickle.Unpickler):
    """Numbers, strings, lists and dicts only."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} where plain values belong")


def _view(
    storage: NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *, name: str
) -> NDArray[Any]:
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if offset < 0 or min(strides, default=0) < 0 or (0 not in shape and last >= storage.size):
        raise WeightsError(
            f"tensor {name} reaches element {last} of a storage of {storage.size}; install the package again"
        )
    return as_strided(storage[offset:], shape, [stride * storage.itemsize for stride in strides], writeable=False)
