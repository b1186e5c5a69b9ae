"""TensorRT-RTX at run time: which kernels it compiled, kept in a runtime cache that fits one machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import tensorrt_rtx_bindings as real

from standin_trt import Flavour, HostMemory, complain, counters, driver


class RuntimeCache:
    """IRuntimeCache; told of the machine by the context that is current when it is read or written."""

    def __init__(self, flavour: Flavour, logger: Any) -> None:
        self._flavour, self._logger = flavour, logger
        self.kernels: set[str] = set()

    def serialize(self) -> HostMemory:
        body = json.dumps({"machine": self._machine(), "kernels": sorted(self.kernels)}).encode()
        return HostMemory(body + hashlib.sha256(body).digest())

    def deserialize(self, blob: Any) -> bool:
        data = bytes(blob)
        body = data[:-32]
        if hashlib.sha256(body).digest() != data[-32:]:
            complain(self._logger, "IRuntimeCache::deserialize: the blob is corrupt")
            return False
        kept = json.loads(body)
        try:
            fits = kept["machine"] == self._machine()
        except driver.Failed as error:
            complain(self._logger, f"IRuntimeCache::deserialize: {error}")
            return False
        if not fits:
            complain(self._logger, "IRuntimeCache::deserialize: the runtime cache is of another environment")
            return False
        self.kernels |= set(kept["kernels"])
        return True

    def reset(self) -> bool:
        self.kernels.clear()
        return True

    def compile(self, key: str) -> None:
        counters.compiled += key not in self.kernels
        self.kernels.add(key)

    def _machine(self) -> list[Any]:
        return [*driver.device(), self._flavour.version]


class RuntimeConfig:
    """IRuntimeConfig, with the real enumerations."""

    def __init__(self, flavour: Flavour, logger: Any) -> None:
        self._flavour, self._logger = flavour, logger
        self._cache: RuntimeCache | None = None
        self._strategy = real.ExecutionContextAllocationStrategy.STATIC
        self._graphs = real.CudaGraphStrategy.DISABLED
        self._kernels = real.DynamicShapesKernelSpecializationStrategy.LAZY

    @property
    def cuda_graph_strategy(self) -> Any:
        return self._graphs

    @cuda_graph_strategy.setter
    def cuda_graph_strategy(self, value: Any) -> None:
        self._graphs = _checked(value, real.CudaGraphStrategy)

    @property
    def dynamic_shapes_kernel_specialization_strategy(self) -> Any:
        return self._kernels

    @dynamic_shapes_kernel_specialization_strategy.setter
    def dynamic_shapes_kernel_specialization_strategy(self, value: Any) -> None:
        self._kernels = _checked(value, real.DynamicShapesKernelSpecializationStrategy)

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = _checked(strategy, real.ExecutionContextAllocationStrategy)

    def get_execution_context_allocation_strategy(self) -> Any:
        return self._strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self._flavour, self._logger)

    def set_runtime_cache(self, cache: RuntimeCache | None = None) -> bool:
        self._cache = None if cache is None else _checked(cache, RuntimeCache)
        return True

    def get_runtime_cache(self) -> RuntimeCache | None:
        return self._cache


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"incompatible function arguments: {value!r} is no {kind.__name__}")
    return value
