"""Stands in for the full TensorRT 10.13, which no registry offers: TensorRT-RTX's builder under the other's names.

What only TensorRT-RTX has is missing here, and timing caches are kept. See tests/standin/README.md.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import tensorrt_rtx_bindings as _real
from standin_trt import building, engine, flavour
from standin_trt.building import OnnxParser
from standin_trt.building import TimingCache as ITimingCache
from standin_trt.context import ExecutionContext as IExecutionContext
from standin_trt.engine import CudaEngine as ICudaEngine

_ONLY_RTX = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "IRuntimeCache",
    "IRuntimeConfig",
}
globals().update(
    {name: getattr(_real, name) for name in dir(_real) if name[0] != "_" and name not in _ONLY_RTX | set(globals())}
)
_FLAVOUR = flavour("tensorrt", "10.13.3.9")
__version__ = _FLAVOUR.version
__all__ = [
    "Builder",
    "ICudaEngine",
    "IExecutionContext",
    "ITimingCache",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "Runtime",
]


class NetworkDefinitionCreationFlag(IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


def _flags(flags: int) -> int:
    if not flags >> NetworkDefinitionCreationFlag.STRONGLY_TYPED & 1:
        raise ValueError("a weakly typed network: TensorRT 11 has none, and Marey builds none")
    return 1 << int(_real.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


class Builder(building.Builder):
    def __init__(self, logger: Any) -> None:
        super().__init__(logger, flavour=_FLAVOUR, network_flags=_flags)


class Runtime(engine.Runtime):
    def __init__(self, logger: Any) -> None:
        super().__init__(logger, flavour=_FLAVOUR)
