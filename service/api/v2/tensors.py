"""Tensors as the protocol names them: datatype, shape, and their bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Tensor
from service.errors import InvalidParameter

# All that the protocol knows; the networks here read and write two of them.
DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES",
)  # fmt: skip
_OURS = {"uint8": "UINT8", "float32": "FP32"}
_STORED: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
_MEANING = {"UINT8": "pixels as they are, 0 to 255: the network normalises them itself", "FP32": "numbers of 32 bits"}


@dataclass(frozen=True, slots=True)
class Spec:
    """Name, datatype and shape of an input or output; -1 stands for an axis of any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Spec:
        shape = tuple(length if isinstance(length, int) else -1 for length in tensor.shape)
        return cls(tensor.name, _OURS[tensor.dtype], shape)

    def refuse_unless_fits(self, datatype: object, shape: object) -> tuple[int, ...]:
        """`shape` as a tuple, if a tensor of it and of `datatype` can be this input; raises InvalidParameter."""
        if datatype != self.datatype:
            known = "" if datatype in DATATYPES else f", which is none of the protocol's ({', '.join(DATATYPES)})"
            raise InvalidParameter(
                f"input {self.name!r} has the datatype {str(datatype)[:40]!r}{known}; send {self.datatype}: {_MEANING[self.datatype]}"
            )
        if not isinstance(shape, list) or not all(type(length) is int for length in shape):
            raise InvalidParameter(f"the shape of input {self.name!r} is {str(shape)[:100]!r}; send a list of integers")
        if len(shape) != len(self.shape) or any(
            length < 1 or expected not in (-1, length) for length, expected in zip(shape, self.shape, strict=True)
        ):
            raise InvalidParameter(
                f"input {self.name!r} has the shape {str(shape)[:100]}, this model takes {list(self.shape)}; "
                "-1 stands for any length from 1"
            )
        return tuple(shape)

    def bytes_of(self, shape: Sequence[int]) -> int:
        return math.prod(shape) * _STORED[self.datatype].itemsize

    def from_bytes(self, data: memoryview, shape: Sequence[int]) -> NDArray[np.generic]:
        """`data`, little-endian and row-major, as an array of `shape`, without a copy where it is aligned."""
        array = np.frombuffer(data, _STORED[self.datatype]).reshape(shape)
        return np.require(array, requirements="A")


def to_bytes(array: NDArray[np.float32]) -> bytes:
    """As the protocol has FP32: little-endian, row-major."""
    return np.ascontiguousarray(array, "<f4").tobytes()


def packed(items: Sequence[bytes]) -> bytes:
    """As the protocol has BYTES: each with its length before it."""
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def classified(array: NDArray[np.float32], count: int, labels: Sequence[str]) -> tuple[tuple[int, int], list[bytes]]:
    """The `count` largest of each row of `array` `[B, K]`, best first, as `value:index:label`; all where K is less.

    Their shape, and they themselves row by row. Without labels for K classes: `value:index`.
    """
    best = np.argsort(-array, axis=1, kind="stable")[:, :count]
    names = [f":{label}" for label in labels] if len(labels) == array.shape[1] else [""] * array.shape[1]
    values = np.take_along_axis(array, best, axis=1)
    found = [
        f"{value:f}:{k}{names[k]}".encode()
        for row, chosen in zip(values.tolist(), best.tolist(), strict=True)
        for value, k in zip(row, chosen, strict=True)
    ]
    return (best.shape[0], best.shape[1]), found
