"""One TensorRT plan on the GPU: its contexts, its buffers, and the CUDA graphs recorded from it.

Two slots take turns, each with buffers and contexts of its own: while the GPU computes in one, the next rows are copied into
the other. Uploads, computing and downloads have a stream each; events between them keep the order within a slot.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.base import Outputs
from service.engine.build import Profile, Shape
from service.engine.capture import Graph
from service.engine.cuda import Buffer, Device
from service.engine.flavour import Flavour, log_of
from service.engine.profiles import profile_of
from service.errors import BuildCancelled, DeviceFull, EngineError

logger = logging.getLogger(__name__)

SLOTS = 2


@dataclass(slots=True)
class _Lane:
    """One execution context and the shape that it is set to; `graph` where that shape never changes."""

    context: Any
    shape: Shape
    graph: Graph | None = None


@dataclass(slots=True)
class _Slot:
    lanes: dict[Shape | int, _Lane]  # by fixed shape, or by profile
    source: Buffer
    results: dict[str, Buffer]
    uploaded: Any
    computed: Any
    done: Any
    busy: bool = False


class Network:
    """Opened, used and closed on the device thread.

    `fixed`: the only shapes that will come, each with a context and a CUDA graph of its own. Without, any shape within the
    profiles may come, and each profile has a context. `kernels`: what an earlier process got from the property of that name.
    """

    def __init__(
        self,
        plan: bytes,
        *,
        flavour: Flavour,
        runtime: Any,
        device: Device,
        profiles: Sequence[Profile],
        fixed: Sequence[Shape] = (),
        graphs: bool = True,
        kernels: bytes | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._flavour, self._device, self._profiles, self._fixed = flavour, device, profiles, tuple(fixed)
        self._log = log_of(flavour.name)
        self._slots: list[_Slot] = []
        self._scratch: Any = None
        self._no_graphs = "" if graphs else "not wanted"
        self._log.reason()
        with device.current():
            self._engine = runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                reason = self._log.reason()
                kind = DeviceFull if "out of memory" in reason.lower() else EngineError
                raise kind(f"{flavour} does not load the plan on GPU {device.ordinal}: {reason}")
            try:
                self._open(kernels)
                self._warm(cancelled)
            except BaseException as error:
                # The frames that it came through hold contexts of the engine, which must end while the device's is current.
                traceback.clear_frames(error.__traceback__)
                self._free()
                raise

    @property
    def graphs(self) -> int:
        """How many CUDA graphs are in use; 0 where none could be recorded, or none was wanted."""
        return sum(lane.graph is not None for slot in self._slots for lane in slot.lanes.values())

    @property
    def kernels(self) -> bytes | None:
        """What TensorRT-RTX has compiled for this GPU, to be given to the next `Network` of the same plan; else None."""
        return None if self._compiled is None else bytes(self._compiled.serialize())

    def begin(self, blocks: Sequence[NDArray[np.generic]], *, rows: int) -> Callable[[], Outputs]:
        """See `Overlapping.begin`."""
        slot = next((slot for slot in self._slots if not slot.busy), None)
        if slot is None:
            raise EngineError(f"{len(self._slots)} batches are under way, which is the limit; finish one first")
        shape = (rows, *blocks[0].shape[1:])
        lane = self._lane(slot, shape)
        source = slot.source.view(shape, self._dtypes[self._input])
        filled = 0
        for block in blocks:
            source[filled : filled + len(block)] = block
            filled += len(block)
        with self._device.current():
            try:
                views = self._send(slot, lane, shape)
            except BaseException:
                self._settle()  # or the next rows would be written over those that are still being copied
                raise
        slot.busy = True
        return partial(self._finish, slot, views, filled)

    def close(self) -> None:
        """Wait for what is under way, then give everything back: graphs, contexts, buffers, engine, in that order."""
        with self._device.current():
            self._free()

    def _send(self, slot: _Slot, lane: _Lane, shape: Shape) -> dict[str, NDArray[np.float32]]:
        """Upload, compute, download; returns where on the host each result will be."""
        self._shape(lane, shape)
        slot.source.upload(slot.source.view(shape, self._dtypes[self._input]).nbytes, self._uploads)
        slot.uploaded.record(self._uploads)
        self._computes.wait_for_event(slot.uploaded)
        self._launch(lane)
        slot.computed.record(self._computes)
        self._downloads.wait_for_event(slot.computed)
        views = {name: self._result(slot, lane, name) for name in slot.results}
        for name, view in views.items():
            slot.results[name].download(view.nbytes, self._downloads)
        slot.done.record(self._downloads)
        return views

    def _settle(self) -> None:
        for stream in (self._uploads, self._computes, self._downloads):
            stream.synchronize()

    def _finish(self, slot: _Slot, views: dict[str, NDArray[np.float32]], rows: int) -> Outputs:
        try:
            with self._device.current():
                slot.done.synchronize()
            return {name: view[:rows].copy() for name, view in views.items()}
        finally:
            slot.busy = False

    def _lane(self, slot: _Slot, shape: Shape) -> _Lane:
        key = shape if self._fixed else profile_of(shape, self._profiles, self._input)
        if key not in slot.lanes or key is None:
            largest = self._fixed[-1] if self._fixed else self._profiles[-1][self._input][2]
            raise EngineError(
                f"the engine takes no rows {list(shape)}, at most {list(largest)}; export the bundle again"
            )
        return slot.lanes[key]

    def _launch(self, lane: _Lane) -> None:
        if lane.graph is not None:
            lane.graph.launch(self._computes.handle)
        elif not lane.context.execute_async_v3(self._computes.handle):
            raise EngineError(f"{self._flavour} did not run rows {list(lane.shape)}: {self._log.reason()}")

    def _shape(self, lane: _Lane, shape: Shape) -> None:
        if lane.shape == shape:
            return
        if not lane.context.set_input_shape(self._input, shape):
            raise EngineError(f"{self._flavour} refuses rows {list(shape)}: {self._log.reason()}")
        lane.shape = shape

    def _result(self, slot: _Slot, lane: _Lane, name: str) -> NDArray[np.float32]:
        return slot.results[name].view(tuple(lane.context.get_tensor_shape(name)), self._dtypes[name])

    def _open(self, kernels: bytes | None) -> None:
        trt, engine, device = self._flavour.trt, self._engine, self._device
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        (self._input,) = (name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        self._dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self._uploads, self._computes, self._downloads = device.stream(), device.stream(), device.stream()
        self._scratch = device.memory(engine.device_memory_size_v2)
        self._config, self._compiled = self._runtime_config(kernels)
        for _ in range(SLOTS):
            lanes = self._lanes()
            sizes = {
                name: max(int(np.prod(lane.context.get_tensor_shape(name))) for lane in lanes.values())
                * self._dtypes[name].itemsize
                for name in names
            }
            slot = _Slot(
                lanes,
                device.buffer(sizes.pop(self._input)),
                {name: device.buffer(nbytes) for name, nbytes in sizes.items()},
                device.event(),
                device.event(),
                device.event(),
            )
            self._slots.append(slot)
            for lane in lanes.values():
                for name, buffer in {self._input: slot.source, **slot.results}.items():
                    if not lane.context.set_tensor_address(name, buffer.address):
                        raise EngineError(f"{self._flavour} refuses the buffer of {name}: {self._log.reason()}")

    def _lanes(self) -> dict[Shape | int, _Lane]:
        """One context for each fixed shape, or one for each profile, at its largest shape."""
        lanes: dict[Shape | int, _Lane] = {}
        shapes = self._fixed or [profile[self._input][2] for profile in self._profiles]
        for number, shape in enumerate(shapes):
            profile = profile_of(shape, self._profiles, self._input) if self._fixed else number
            if profile is None:
                raise EngineError(f"no profile of the engine takes rows {list(shape)}; build it again")
            lane = _Lane(self._context(profile), ())
            self._shape(lane, shape)
            lanes[shape if self._fixed else number] = lane
        return lanes

    def _context(self, profile: int) -> Any:
        """A context without memory of its own: all work in the same, one after the other on one stream."""
        strategy = self._flavour.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy if self._config is None else self._config)
        if context is None:
            raise EngineError(f"{self._flavour} makes no execution context: {self._log.reason()}")
        if not context.set_optimization_profile_async(profile, self._computes.handle):
            raise EngineError(f"{self._flavour} refuses profile {profile}: {self._log.reason()}")
        self._computes.synchronize()
        context.set_device_memory(int(self._scratch), max(1, self._engine.device_memory_size_v2))
        return context

    def _runtime_config(self, kernels: bytes | None) -> tuple[Any, Any]:
        """TensorRT-RTX compiles at run time: at once where a shape is fixed, else never for one shape alone.

        Its default compiles for a new shape in the background, which would be met again by each new length of a clip.
        """
        if not self._flavour.rtx:
            return None, None
        trt = self._flavour.trt
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        kinds = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER if self._fixed else kinds.NONE
        compiled = config.create_runtime_cache()
        if kernels is not None:
            compiled.deserialize(kernels)  # it checks by itself whether they are for this GPU, driver and version
        config.set_runtime_cache(compiled)
        return config, compiled

    def _warm(self, cancelled: Callable[[], bool]) -> None:
        """Run every lane of every slot once, and record it as a CUDA graph where its shape is fixed."""
        for slot in self._slots:
            slot.source.host.fill(0)
            slot.source.upload(slot.source.host.nbytes, self._computes)
            for key, lane in slot.lanes.items():
                if cancelled():
                    raise BuildCancelled("the engine was given up while it was warmed, because the service is stopping")
                if isinstance(key, int):
                    self._shape(lane, self._profiles[key][self._input][1])
                self._launch(lane)
                self._computes.synchronize()
                if self._fixed and not self._no_graphs:
                    lane.graph = self._recorded(lane)

    def _recorded(self, lane: _Lane) -> Graph | None:
        capturable = getattr(lane.context, "is_stream_capturable", None)  # TensorRT-RTX alone can tell before
        if capturable is not None and not capturable(self._computes.handle):
            self._no_graphs = "TensorRT-RTX says that this network cannot be recorded"
        else:
            try:
                return Graph(self._computes.handle, lambda: self._launch(lane))
            except EngineError as error:
                self._no_graphs = str(error)
        logger.info("no CUDA graph for rows %s and up: %s", list(lane.shape), self._no_graphs)
        return None

    def _free(self) -> None:
        if self._slots:
            self._settle()
        for slot in self._slots:
            for lane in slot.lanes.values():
                if lane.graph is not None:
                    lane.graph.close()
            slot.lanes.clear()
            for buffer in (slot.source, *slot.results.values()):
                buffer.free()
        self._slots.clear()
        self._config = self._compiled = self._engine = None
        if self._scratch is not None:
            self._scratch.free()
            self._scratch = None
        self._uploads = self._computes = self._downloads = None
