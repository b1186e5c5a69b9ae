"""From an ONNX graph to a TensorRT plan: strongly typed, explicit Q/DQ; the very code that the exporter's gate runs on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.engine.flavour import Flavour, log_of
from service.errors import BuildCancelled, EngineError

Shape = tuple[int, ...]
# For each input its smallest, usual and largest shape.
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
# Told of the phase that TensorRT is in and of how much of it is done, 0 to 1.
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """A serialized engine; `layers` of the network before fusion; `timing_cache` makes the next build of its like faster."""

    data: bytes
    layers: int
    timing_cache: bytes | None = None


def build_plan(
    onnx: bytes,
    *,
    flavour: Flavour,
    profiles: Sequence[Profile],
    this_gpu: bool = False,
    timing_cache: bytes | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Plan:
    """Parse and build `onnx`. Raises EngineError with TensorRT's reason.

    `this_gpu`: TensorRT-RTX compiles for the GPU at hand instead of for every GPU that it knows; the full library always does.
    `timing_cache`: what a former build on this GPU gave, of the full library only.
    """
    trt, log = flavour.trt, log_of(flavour.name)
    log.reason()
    builder = _builder(flavour)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.sink)
    if not parser.parse(onnx):
        faults = (parser.get_error(index) for index in range(parser.num_errors))
        told = "; ".join(f"{fault.node_operator()} {fault.node_name()!r}: {fault.desc()}" for fault in faults)
        raise EngineError(f"{flavour} cannot read the graph: {told or log.reason()}; replace the layer that it names")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # it would round the inputs of every float32 product to 10 bits
    if flavour.rtx and this_gpu:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(trt.ComputeCapability.CURRENT, 0):
            raise EngineError(f"{flavour} does not build for this GPU: {log.reason()}")
    timings = _timings(config, timing_cache) if timing_cache is not None and not flavour.rtx else None
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        for name, sizes in profile.items():
            shapes.set_shape(name, *sizes)
        if config.add_optimization_profile(shapes) < 0:
            raise EngineError(f"{flavour} refuses the profile {dict(profile)}: {log.reason()}; export the bundle again")
    interrupted: list[BaseException] = []
    config.progress_monitor = _monitor(trt, progress, cancelled, interrupted)
    plan = builder.build_serialized_network(network, config)
    if interrupted:
        raise interrupted[0]
    if plan is None:
        if cancelled():
            raise BuildCancelled("the build of the engine was stopped, because the service is stopping")
        raise EngineError(f"{flavour} cannot build the graph: {log.reason()}")
    kept = bytes(timings.serialize()) if timings is not None else None
    return Plan(bytes(plan), network.num_layers, kept)


def _builder(flavour: Flavour) -> Any:
    log = log_of(flavour.name)
    try:
        return flavour.trt.Builder(log.sink)
    except TypeError as error:  # what its bindings raise where there is none to give
        raise EngineError(
            f"{flavour} has no builder here ({log.reason()}); build the engine where the whole TensorRT is"
        ) from error


def _timings(config: Any, kept: bytes) -> Any:
    timings = config.create_timing_cache(kept)
    if timings is None or not config.set_timing_cache(timings, ignore_mismatch=False):
        timings = config.create_timing_cache(b"")  # what was kept is of another GPU or version
        config.set_timing_cache(timings, ignore_mismatch=False)
    return timings


def _monitor(
    trt: Any, progress: Progress | None, cancelled: Callable[[], bool], interrupted: list[BaseException]
) -> Any:
    """`interrupted` gets what is raised in its methods, Ctrl-C as a rule: TensorRT would only say that it was cancelled."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of the module that was imported just now
        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002  # its signature
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self._steps.pop(phase_name, 1))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return not interrupted and not cancelled()

        def _tell(self, phase: str, step: int) -> None:
            try:
                if progress is not None:
                    progress(phase, min(1.0, step / max(1, self._steps.get(phase, 1))))
            except BaseException as error:  # noqa: BLE001  # raised again once TensorRT has given up
                interrupted.append(error)

    return Monitor()
