"""What needs a GPU in TensorRT, played on the CPU; shared by the stand-ins for `tensorrt_rtx` and `tensorrt`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import tensorrt_rtx_bindings as real


@dataclass(slots=True)
class Counters:
    """What tests ask about: how often was built, loaded, compiled at run time, run, and timed for want of a timing cache."""

    built: int = 0
    deserialized: int = 0
    compiled: int = 0
    executed: int = 0
    timed: int = 0


counters = Counters()


@dataclass(frozen=True, slots=True)
class Flavour:
    """Which TensorRT is played; its plans and caches fit no other."""

    name: str
    version: str
    rtx: bool


def flavour(name: str, version: str) -> Flavour:
    """`STANDIN_TRT_VERSION` plays another version, for plans and caches that must be refused then."""
    return Flavour(name, os.environ.get("STANDIN_TRT_VERSION", version), name == "tensorrt_rtx")


class HostMemory(bytes):
    """IHostMemory: a buffer of known size."""

    __slots__ = ()

    @property
    def nbytes(self) -> int:
        return memoryview(self).nbytes


def complain(logger: Any, message: str) -> None:
    logger.log(real.ILogger.ERROR, message)


def warn(logger: Any, message: str) -> None:
    logger.log(real.ILogger.WARNING, message)
