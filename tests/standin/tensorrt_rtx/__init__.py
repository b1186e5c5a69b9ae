"""Stands in for TensorRT-RTX: builder, parser and network are the real ones; see tests/standin/README.md."""

from __future__ import annotations

from typing import Any

import tensorrt_rtx_bindings as _real
from standin_trt import building, engine, flavour
from standin_trt.building import OnnxParser
from standin_trt.compiled import RuntimeCache as IRuntimeCache
from standin_trt.compiled import RuntimeConfig as IRuntimeConfig
from standin_trt.context import ExecutionContext as IExecutionContext
from standin_trt.engine import CudaEngine as ICudaEngine

globals().update({name: getattr(_real, name) for name in dir(_real) if name[0] != "_" and name not in globals()})
_FLAVOUR = flavour("tensorrt_rtx", _real.__version__)
__version__ = _FLAVOUR.version
__all__ = ["Builder", "ICudaEngine", "IExecutionContext", "IRuntimeCache", "IRuntimeConfig", "OnnxParser", "Runtime"]


class Builder(building.Builder):
    def __init__(self, logger: Any) -> None:
        super().__init__(logger, flavour=_FLAVOUR, network_flags=int)


class Runtime(engine.Runtime):
    def __init__(self, logger: Any) -> None:
        super().__init__(logger, flavour=_FLAVOUR)
