"""A plan: what TensorRT really built, with the ONNX graph and the profiles beside it so that it can be run here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

_MAGIC = b"MAREY STAND-IN PLAN\n"


class Corrupt(ValueError):
    """These bytes are no plan, or not the one that was written."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`profiles[p][input]` is [min, opt, max]; `tensors` in the order of the network: name, is_input, dtype, shape."""

    flavour: str
    version: str
    gpu: str
    capability: str
    layers: int
    tensors: list[tuple[str, bool, str, list[int]]]
    profiles: list[dict[str, list[list[int]]]]
    onnx: bytes = field(default=b"", repr=False)
    built: bytes = field(default=b"", repr=False)

    def pack(self) -> bytes:
        header = {name: value for name, value in asdict(self).items() if name not in {"onnx", "built"}}
        header["sizes"] = [len(self.onnx), len(self.built)]
        text = json.dumps(header).encode()
        body = _MAGIC + len(text).to_bytes(8, "little") + text + self.onnx + self.built
        return body + hashlib.sha256(body).digest()

    @classmethod
    def unpack(cls, data: bytes) -> Plan:
        body, digest = data[:-32], data[-32:]
        if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
            raise Corrupt("Magic tag does not match, or the checksum of the plan is wrong")
        start = len(_MAGIC) + 8
        end = start + int.from_bytes(body[start - 8 : start], "little")
        header: dict[str, Any] = json.loads(body[start:end])
        onnx, built = header.pop("sizes")
        header["tensors"] = [tuple(each) for each in header["tensors"]]
        return cls(**header, onnx=body[end : end + onnx], built=body[end + onnx : end + onnx + built])

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.onnx + json.dumps(self.profiles).encode()).hexdigest()
