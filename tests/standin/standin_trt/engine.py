"""Loading: plans are checked as TensorRT checks them, and their weights take device memory."""

from __future__ import annotations

import math
from typing import Any

import onnx
import onnxruntime
import tensorrt_rtx_bindings as real

from standin_trt import Flavour, complain, counters, driver
from standin_trt.compiled import RuntimeConfig
from standin_trt.context import ExecutionContext, RtxExecutionContext
from standin_trt.plan import Corrupt, Plan

_STRATEGIES = real.ExecutionContextAllocationStrategy


def session_of(graph: bytes) -> onnxruntime.InferenceSession:
    """How the stand-in runs a graph; a test that compares with onnxruntime does it this way, too."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Its fusion of Q/DQ miscomputes graphs whose scales are float16 (cosine 0.3 of the features of imagenet).
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class Runtime:
    def __init__(self, logger: Any, *, flavour: Flavour) -> None:
        if not isinstance(logger, real.ILogger):
            raise TypeError("__init__(): incompatible constructor arguments: a logger is wanted")
        self.logger, self._flavour = logger, flavour
        self.max_threads = 1

    def deserialize_cuda_engine(self, serialized_engine: Any) -> CudaEngine | None:
        """None, with the reason in the log, where the plan is damaged or of another TensorRT or GPU."""
        if not driver.has_context():
            complain(self.logger, "IRuntime::deserializeCudaEngine: no CUDA context is current on this thread")
            return None
        try:
            plan = Plan.unpack(bytes(memoryview(serialized_engine)))
        except Corrupt as error:
            complain(self.logger, f"IRuntime::deserializeCudaEngine: Error Code 1: Serialization ({error})")
            return None
        if (plan.flavour, plan.version) != (self._flavour.name, self._flavour.version):
            complain(self.logger, f"The plan is of {plan.flavour} {plan.version}, this is {self._flavour.version}")
            return None
        try:
            gpu, capability, _ = driver.device()
        except driver.Failed as error:
            complain(self.logger, f"IRuntime::deserializeCudaEngine: Error Code 1: {error}")
            return None
        if plan.gpu and (plan.gpu, plan.capability) != (gpu, capability):
            complain(
                self.logger,
                f"The engine plan file is generated on an incompatible device: {plan.gpu} {plan.capability}",
            )
            return None
        try:
            engine = (RtxCudaEngine if self._flavour.rtx else CudaEngine)(plan, self._flavour, self.logger)
        except driver.Failed as error:
            complain(self.logger, f"IRuntime::deserializeCudaEngine: Error Code 1: {error}")
            return None
        counters.deserialized += 1
        return engine


class CudaEngine:
    """ICudaEngine."""

    def __init__(self, plan: Plan, flavour: Flavour, logger: Any) -> None:
        self.plan, self.flavour, self.logger = plan, flavour, logger
        self._weights = 0
        self.tensors = {
            name: (is_input, real.DataType.__members__[dtype], shape) for name, is_input, dtype, shape in plan.tensors
        }
        self.session = session_of(plan.onnx)
        self.symbols = _symbols(plan.onnx)
        self._weights = driver.allocate(len(plan.onnx))
        self.name, self.num_layers, self.refittable = "", plan.layers, False

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self.plan.profiles))

    @property
    def device_memory_size_v2(self) -> int:
        return max(self.get_device_memory_size_for_profile_v2(index) for index in range(self.num_optimization_profiles))

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        """Some, that grows with the profile."""
        profile = self.plan.profiles[profile_index] if self.plan.profiles else {}
        return 4096 + 256 * sum(math.prod(largest) // 64 for _, _, largest in profile.values())

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        if name not in self.tensors:
            return real.TensorIOMode.NONE
        return real.TensorIOMode.INPUT if self.tensors[name][0] else real.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self.tensors[name][1] if name in self.tensors else real.DataType.FLOAT

    def get_tensor_shape(self, name: str) -> Any:
        """-1 for a dynamic axis."""
        return real.Dims(self.tensors[name][2]) if name in self.tensors else real.Dims([])

    def get_tensor_location(self, name: str) -> Any:
        return real.TensorLocation.DEVICE if name in self.tensors else real.TensorLocation.HOST

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        return [real.Dims(shape) for shape in self.plan.profiles[profile_index][name]]

    def create_execution_context(self, strategy: Any = _STRATEGIES.STATIC) -> ExecutionContext | None:
        """None where memory does not suffice."""
        if not isinstance(strategy, _STRATEGIES):
            raise TypeError("create_execution_context(): incompatible function arguments")
        return self._context(ExecutionContext, None, strategy)

    def _context(
        self, kind: type[ExecutionContext], config: RuntimeConfig | None, strategy: Any
    ) -> ExecutionContext | None:
        try:
            return kind(self, config, strategy)
        except driver.Failed as error:
            complain(self.logger, f"ICudaEngine::createExecutionContext: Error Code 1: {error}")
            return None

    def __del__(self) -> None:
        if getattr(self, "_weights", 0) and driver.free(self._weights):
            complain(self.logger, "an engine was destroyed without its CUDA context: its device memory is lost")


class RtxCudaEngine(CudaEngine):
    """What only TensorRT-RTX has."""

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self.flavour, self.logger)

    def create_execution_context(
        self, strategy: Any = _STRATEGIES.STATIC, *, runtime_config: RuntimeConfig | None = None
    ) -> ExecutionContext | None:
        """With an allocation strategy or a configuration, by position or by name."""
        config = strategy if isinstance(strategy, RuntimeConfig) else runtime_config
        if config is None:
            if not isinstance(strategy, _STRATEGIES):
                raise TypeError("create_execution_context(): incompatible function arguments")
            config = self.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
        return self._context(RtxExecutionContext, config, config.get_execution_context_allocation_strategy())


def _symbols(graph: bytes) -> dict[str, list[int | str]]:
    """The axes of each input and output, dynamic ones by symbol: what shape inference has to go by."""
    model = onnx.load_from_string(graph).graph
    return {
        end.name: [
            axis.dim_param if axis.HasField("dim_param") else int(axis.dim_value)
            for axis in end.type.tensor_type.shape.dim
        ]
        for end in [*model.input, *model.output]
    }
