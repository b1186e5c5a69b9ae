"""Executing: shapes and addresses are checked as TensorRT checks them, and the graph runs when its stream comes to it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorrt_rtx_bindings as real

from standin_trt import complain, counters, driver, warn

if TYPE_CHECKING:
    from standin_trt.compiled import RuntimeConfig
    from standin_trt.engine import CudaEngine

_STRATEGIES = real.ExecutionContextAllocationStrategy
_KERNELS = real.DynamicShapesKernelSpecializationStrategy
_ALIGNMENT = 256


class ExecutionContext:
    """IExecutionContext. A graph that was captured from it must not outlive it: what runs then is an illegal access."""

    def __init__(self, engine: CudaEngine, config: RuntimeConfig | None, strategy: Any) -> None:
        self.engine, self._config, self._strategy = engine, config, strategy
        self._own = self._scratch = self._scratch_bytes = 0
        self.active_optimization_profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._settled = False
        self._jobs: set[int] = set()
        self._compile("any shape")
        if strategy == _STRATEGIES.STATIC:
            self._allocate(engine.device_memory_size_v2)
        self._forget_shapes()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self.engine.num_optimization_profiles:
            return self._no(f"setOptimizationProfileAsync: there is no profile {profile_index}")
        if driver.capturing(stream_handle):
            driver.synchronize(stream_handle)  # not allowed in a capture, which is invalid now
            return self._no("setOptimizationProfileAsync: operation not permitted when stream is capturing")
        if profile_index != self.active_optimization_profile:
            self.active_optimization_profile = profile_index
            self._forget_shapes()
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        if not isinstance(shape, (tuple, list, real.Dims)):
            raise TypeError("set_input_shape(): incompatible function arguments")
        wanted = tuple(shape)
        if name not in self.engine.tensors or not self.engine.tensors[name][0]:
            return self._no(f"setInputShape: {name} is no input")
        smallest, _, largest = self._limits(name)
        if len(wanted) != len(smallest) or not all(
            a <= b <= c for a, b, c in zip(smallest, wanted, largest, strict=True)
        ):
            return self._no(
                f"setInputShape: Error Code 3: Set dimension {list(wanted)} for tensor {name} does not satisfy any optimization "
                f"profiles: profile {self.active_optimization_profile} takes {smallest} to {largest}"
            )
        if self._shapes.get(name) != wanted:
            self._shapes[name], self._settled = wanted, False
            if (
                self._config is not None
                and self._config.dynamic_shapes_kernel_specialization_strategy == _KERNELS.EAGER
            ):
                self._compile(str(wanted))
        return True

    @property
    def all_binding_shapes_specified(self) -> bool:
        return not self.infer_shapes()

    def infer_shapes(self) -> list[str]:
        return [name for name, (is_input, _, _) in self.engine.tensors.items() if is_input and name not in self._shapes]

    def get_tensor_shape(self, name: str) -> Any:
        return real.Dims(list(self._shape_of(name))) if name in self.engine.tensors else real.Dims([])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine.tensors:
            return self._no(f"setTensorAddress: there is no tensor {name}")
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def set_device_memory(self, memory: int, size: int) -> None:
        if self._strategy != _STRATEGIES.USER_MANAGED:
            self._no("setDeviceMemoryV2: this context has memory of its own")
        elif memory % _ALIGNMENT or size < self.engine.device_memory_size_v2 or driver.memory(memory, size) is None:
            self._no(
                f"setDeviceMemoryV2: {size} bytes at {memory:#x} do not suffice, are not aligned, or not allocated"
            )
        else:
            self._scratch, self._scratch_bytes = memory, size

    def execute_async_v3(self, stream_handle: int) -> bool:
        if reason := self._unready():
            return self._no(f"enqueueV3: {reason}")
        if not stream_handle:
            warn(self.engine.logger, "Using default stream in enqueueV3() may lead to performance issues")
        captured = driver.capturing(stream_handle)
        if captured and not self._settled:
            driver.synchronize(stream_handle)
            return self._no("enqueueV3: the first run after a change of shape cannot be captured")
        run = _Run(
            self.engine, dict(self._shapes), dict(self._addresses), self._outputs(), self._scratch, self._scratch_bytes
        )
        code, number = driver.enqueue(stream_handle, run, once=not captured)
        if code:
            return self._no(f"enqueueV3: Error Code 1: Cuda Runtime (cudaError {code})")
        self._jobs.add(number)
        self._settled = True
        return True

    def _unready(self) -> str:
        if not self.all_binding_shapes_specified:
            return f"the shapes of {self.infer_shapes()} are not specified"
        if not self._scratch:
            return "no device memory was set"
        for name in self.engine.tensors:
            address, nbytes = self._addresses.get(name, 0), self._nbytes(name)
            if not address:
                return f"the address of {name} is not set"
            if address % _ALIGNMENT or driver.memory(address, nbytes) is None:
                return f"{nbytes} bytes at {address:#x} for {name} are not allocated, or not aligned"
        return ""

    def _outputs(self) -> dict[str, tuple[tuple[int, ...], int]]:
        return {
            name: (self._shape_of(name), self._nbytes(name))
            for name, (is_input, _, _) in self.engine.tensors.items()
            if not is_input
        }

    def _shape_of(self, name: str) -> tuple[int, ...]:
        if self.engine.tensors[name][0]:
            return self._shapes.get(name, tuple(self.engine.tensors[name][2]))
        sizes = {
            symbol: size
            for given, shape in self._shapes.items()
            for symbol, size in zip(self.engine.symbols[given], shape, strict=True)
            if isinstance(symbol, str)
        }
        return tuple(axis if isinstance(axis, int) else sizes.get(axis, -1) for axis in self.engine.symbols[name])

    def _nbytes(self, name: str) -> int:
        return math.prod(self._shape_of(name)) * np.dtype(real.nptype(self.engine.tensors[name][1])).itemsize

    def _limits(self, name: str) -> tuple[list[int], list[int], list[int]]:
        shape = self.engine.tensors[name][2]
        if not self.engine.plan.profiles:
            return shape, shape, shape
        smallest, usual, largest = self.engine.plan.profiles[self.active_optimization_profile][name]
        return smallest, usual, largest

    def _forget_shapes(self) -> None:
        self._settled = False
        self._shapes = {
            name: tuple(shape)
            for name, (is_input, _, shape) in self.engine.tensors.items()
            if is_input and -1 not in shape
        }
        if self._strategy == _STRATEGIES.ON_PROFILE_CHANGE:
            self._allocate(self.engine.get_device_memory_size_for_profile_v2(self.active_optimization_profile))

    def _allocate(self, nbytes: int) -> None:
        if self._own:
            driver.free(self._own)
        self._own = self._scratch = driver.allocate(nbytes)
        self._scratch_bytes = nbytes

    def _compile(self, what: str) -> None:
        if self._config is not None and (cache := self._config.get_runtime_cache()) is not None:
            cache.compile(
                f"{self.engine.plan.digest} {self._config.dynamic_shapes_kernel_specialization_strategy} {what}"
            )

    def _no(self, message: str) -> bool:
        complain(self.engine.logger, f"IExecutionContext::{message}")
        return False

    def __del__(self) -> None:
        driver.forget(getattr(self, "_jobs", set()))
        if getattr(self, "_own", 0) and driver.free(self._own):
            complain(self.engine.logger, "a context was destroyed without its CUDA context: its device memory is lost")


class RtxExecutionContext(ExecutionContext):
    """What only TensorRT-RTX has."""

    def is_stream_capturable(self, stream: int) -> bool:
        assert self._config is not None
        waits = self._config.dynamic_shapes_kernel_specialization_strategy == _KERNELS.LAZY and not self._settled
        return bool(stream) and not waits and self._config.cuda_graph_strategy == real.CudaGraphStrategy.DISABLED


class _Run:
    """One execution, with the shapes and addresses that held when it was queued; runs when the stream comes to it."""

    def __init__(
        self,
        engine: CudaEngine,
        shapes: Mapping[str, tuple[int, ...]],
        addresses: Mapping[str, int],
        outputs: Mapping[str, tuple[tuple[int, ...], int]],
        scratch: int,
        scratch_bytes: int,
    ) -> None:
        self._session, self._addresses, self._outputs = engine.session, addresses, outputs
        self._inputs = {name: (shape, np.dtype(real.nptype(engine.tensors[name][1]))) for name, shape in shapes.items()}
        self._scratch, self._scratch_bytes = scratch, scratch_bytes

    def __call__(self) -> int:
        feeds = {}
        for name, (shape, dtype) in self._inputs.items():
            memory = driver.memory(self._addresses[name], math.prod(shape) * dtype.itemsize)
            if memory is None:
                return driver.ILLEGAL_ADDRESS
            feeds[name] = np.frombuffer(memory, dtype).reshape(shape).copy()
        scratch = driver.memory(self._scratch, self._scratch_bytes)
        if scratch is None:
            return driver.ILLEGAL_ADDRESS
        ctypes.memset(scratch, 0xEE, self._scratch_bytes)  # whoever keeps something there loses it
        for name, array in zip(self._outputs, self._session.run(list(self._outputs), feeds), strict=True):
            shape, nbytes = self._outputs[name]
            memory = driver.memory(self._addresses[name], nbytes)
            if memory is None or array.shape != shape or array.nbytes != nbytes:
                return driver.ILLEGAL_ADDRESS
            ctypes.memmove(memory, np.ascontiguousarray(array).ctypes.data, nbytes)
        counters.executed += 1
        return 0
