"""Messages between the service and its decode workers: a pickle, and the arrays in it as they lie in memory.

Layout: a header of eight 8-byte little-endian integers (the count of parts, the length of each, zeros), then the parts: the
pickle (protocol 5) first, its out-of-band buffers after it. So the 2.4 MB of a clip are received into the array's own memory.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_PARTS = 7
_HEADER = struct.Struct(f"<{1 + MAX_PARTS}Q")
HEADER_BYTES = _HEADER.size


def pack(message: object) -> list[memoryview]:
    """`message` as byte views to be sent one after the other."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [buffer.raw() for buffer in buffers]
    lengths = [len(head), *(part.nbytes for part in parts)]
    if len(lengths) > MAX_PARTS:
        raise ValueError(f"a message of {len(lengths)} parts, at most {MAX_PARTS}")
    header = _HEADER.pack(len(lengths), *lengths, *[0] * (MAX_PARTS - len(lengths)))
    return [memoryview(header + head), *parts]


def lengths(header: bytes | bytearray) -> tuple[int, ...]:
    """How long each part is that follows; raises ValueError where the peer sent something else."""
    count, *found = _HEADER.unpack(header)
    if not 1 <= count <= MAX_PARTS:
        raise ValueError(f"a message of {count} parts, expected 1 to {MAX_PARTS}")
    return tuple(found[:count])


def unpack(parts: Sequence[bytearray]) -> Any:
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - our own child process, started by us


@dataclass(slots=True, eq=False)
class Incoming:
    """One message, as it comes in: `parts` are all there once `read` was true."""

    parts: list[bytearray] = field(default_factory=list)
    _header: bytearray = field(default_factory=lambda: bytearray(HEADER_BYTES))
    _missing: list[memoryview] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._missing.append(memoryview(self._header))

    @property
    def complete(self) -> bool:
        return not self._missing

    def read(self, connection: socket.socket) -> bool:
        """Take what there is, and no byte of a later message; whether this one is complete.

        A connection that blocks is waited for. Raises EOFError where the stream ends, ValueError where it is none of ours.
        """
        while self._missing:
            try:
                got = connection.recvmsg_into(self._missing)[0]
            except BlockingIOError:
                return False
            if not got:
                raise EOFError
            while self._missing and got >= self._missing[0].nbytes:
                got -= self._missing.pop(0).nbytes
            if got:
                self._missing[0] = self._missing[0][got:]
            if not self._missing and not self.parts:
                self.parts = [bytearray(size) for size in lengths(self._header)]
                self._missing = [memoryview(part) for part in self.parts if part]
        return True
