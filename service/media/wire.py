"""Messages between the service and its decode workers: a pickle, and the arrays in it as they lie in memory.

Layout: count of parts, then the length of each, as 8-byte little-endian integers, then the parts: the pickle (protocol 5)
first, its out-of-band buffers after it. So the 2.4 MB of a clip are received straight into the array's own memory.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import Any

MAX_PARTS = 64
COUNT = struct.Struct("<Q")


def pack(message: object) -> list[memoryview]:
    """`message` as byte views to be sent one after the other."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    if len(parts) > MAX_PARTS:
        raise ValueError(f"a message of {len(parts)} parts, at most {MAX_PARTS}")
    lengths = struct.pack(f"<{len(parts) + 1}Q", len(parts), *(part.nbytes for part in parts))
    return [memoryview(lengths), *parts]


def count(data: bytes | bytearray) -> int:
    """The number of parts; raises ValueError where the peer sent something else."""
    (parts,) = COUNT.unpack(data)
    if not 1 <= parts <= MAX_PARTS:
        raise ValueError(f"a message of {parts} parts, expected 1 to {MAX_PARTS}")
    return int(parts)


def lengths(data: bytes | bytearray) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // COUNT.size}Q", data)


def unpack(parts: Sequence[bytearray]) -> Any:
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - our own child process, started by us
