"""Does an exported graph become a TensorRT engine? TensorRT-RTX is on PyPI in full and builds without a GPU, in under a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from models.errors import ExportRefused

# The smallest, usual and largest size of a dynamic axis.
_PROFILE = (1, 16, 64)


@dataclass(frozen=True, slots=True)
class Gate:
    """A graph that was built: layers before fusion, and the bytes of the plan."""

    layers: int
    plan_bytes: int


def build_gate(model: onnx.ModelProto | bytes, *, profile: Sequence[int] = _PROFILE) -> Gate:
    """Parse and build `model` strongly typed, every dynamic axis from profile[0] to profile[2]; raises ExportRefused with the reason.

    Neither a GPU nor a compute capability is named: the plan is for none, and never kept.
    """
    try:
        import tensorrt_rtx as trt  # noqa: PLC0415 -- a development package of 95 MB
    except ImportError:
        raise ExportRefused(
            "the TensorRT gate needs tensorrt-rtx, which is not installed; pip install tensorrt-rtx"
        ) from None
    logger = _Log(trt)
    builder = trt.Builder(logger.sink)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger.sink)
    if not parser.parse(model if isinstance(model, bytes) else model.SerializeToString()):
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        reasons = "; ".join(f"{error.node_operator()} {error.node_name()!r}: {error.desc()}" for error in errors)
        raise ExportRefused(f"TensorRT cannot read the graph: {reasons}; replace the layer that it names")
    config, shapes = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes.set_shape(
            tensor.name, *(tuple(size if axis == -1 else axis for axis in tensor.shape) for size in profile)
        )
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportRefused(
            f"TensorRT cannot build the graph: {logger.last or 'no reason given'}; replace the layer that it names"
        )
    return Gate(network.num_layers, plan.nbytes)


class _Log:
    """Keeps the last error: the builder tells its reasons nowhere else."""

    def __init__(self, trt: object) -> None:
        keep = self

        class Sink(trt.ILogger):  # type: ignore[name-defined,misc]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: object, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):  # type: ignore[attr-defined]
                    keep.last = message

        self.last = ""
        self.sink = Sink()
