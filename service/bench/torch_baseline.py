"""torch beside the engines: the same network from the bundle's own graphs, run as well as torch runs it.

# Note [A fair baseline]
On a GPU: fp16, channels last, compiled with CUDA graphs, cuDNN free to choose its kernels, frames from pinned memory and
results back into it, the features never leaving the device. On a CPU: fp32, or bf16 with a head in fp32 as OpenVINO runs
it here. Before anything is timed the graph in fp32 must give the golden probabilities, and so must what is timed: a
baseline that computes something else would prove nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.bench.stopwatch import Task
from service.bench.subject import Runner
from service.bundle.manifest import Stage
from service.bundle.store import Bundle
from service.engine.base import Place
from service.engine.buckets import BUCKETS
from service.errors import EngineError, EngineUnavailable

logger = logging.getLogger(__name__)

Mode = Literal["auto", "eager", "default", "reduce-overhead", "max-autotune"]


def torch_precisions(wanted: Collection[str]) -> tuple[str, ...]:
    """What torch is measured at on this machine: of `wanted`, or what it does best here where that is empty.

    Raises EngineUnavailable where torch or onnx is missing, EngineError where it runs none of `wanted`.
    """
    cuda = _torch().cuda.is_available()
    if not wanted:
        return ("fp16",) if cuda else ("fp32", "bf16")
    chosen = tuple(each for each in (("fp16", "fp32") if cuda else ("fp32",)) if each in wanted)
    if not chosen:
        raise EngineError(f"torch is not measured at {', '.join(wanted)} here; leave --precision out")
    return chosen


class TorchSubject:
    """See Note [A fair baseline]. Raises EngineError where torch cannot run the graphs, or not to the golden probabilities."""

    max_batch = BUCKETS[-1]

    def __init__(self, bundle: Bundle, *, precision: str, place: Place, mode: Mode) -> None:
        torch = self._torch = _torch()
        from service.bench.torch_graph import TorchGraph  # noqa: PLC0415  # needs torch and onnx, as was just seen

        self._cuda = torch.cuda.is_available()
        self._device = torch.device(f"cuda:{place.device}" if self._cuda else "cpu")
        torch.set_num_threads(place.threads)
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
        files = {stage: bundle.file(stage).read_bytes() for stage in bundle.manifest.network.stages}

        def build(stage: Stage, precision: str) -> Any:
            dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
            return TorchGraph(files[stage], dtype=dtype).eval().to(self._device)

        self._networks = {stage: build(stage, "fp32") for stage in files}
        self._check(bundle, "fp32")
        if precision != "fp32":
            halved = [stage for stage in files if self._cuda or stage != "head"]
            self._networks |= {stage: build(stage, precision) for stage in halved}
            self._check(bundle, precision)
        notes = self._compile(bundle, ("max-autotune" if self._cuda else "eager") if mode == "auto" else mode)
        name = torch.cuda.get_device_name(self._device) if self._cuda else "cpu"
        self.runner = Runner(
            engine="torch",
            precision=precision,
            float_precision=precision,
            device=f"{name} (torch {torch.__version__})",
            golden_difference=self._check(bundle, precision),
            notes=notes,
        )

    def entry(self, rows: NDArray[np.uint8]) -> Task:
        return self._task(self._first, rows)

    def head(self, features: NDArray[np.float32]) -> Task:
        return self._task(lambda x: self._networks["head"](x)[0], features)

    def clip(self, frames: NDArray[np.uint8]) -> Task:
        return self._task(self._whole, frames)

    def overlapped(self, rows: NDArray[np.uint8]) -> Task | None:
        """On a GPU: the next batch is queued before the result of the last is waited for."""
        if not self._cuda:
            return None
        torch = self._torch
        lanes = [_Lane(torch, rows) for _ in range(2)]
        under_way: list[_Lane] = []

        def begin() -> None:
            lane = lanes.pop(0)
            lane.begin(lambda x: self._run(self._first, x), self._device)
            under_way.append(lane)

        def end() -> None:
            lane = under_way.pop(0)
            lane.wait()
            lanes.append(lane)

        def run() -> None:
            begin()
            end()

        return Task(run, prepare=begin, settle=end)

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._apply(self._first, frames)
        return found

    def close(self) -> None:
        self._networks.clear()
        if self._cuda:
            self._torch.cuda.empty_cache()

    def _first(self, rows: Any) -> Any:
        return next(iter(self._networks.values()))(rows)[0]

    def _whole(self, frames: Any) -> Any:
        """Of one clip `[T, H, W, C]`."""
        if "clip" in self._networks:
            return self._first(frames[None])
        return self._networks["head"](self._first(frames)[None])[0]

    def _task(self, network: Callable[[Any], Any], rows: NDArray[np.generic]) -> Task:
        held = self._torch.from_numpy(np.ascontiguousarray(rows))
        if not self._cuda:
            return Task(lambda: self._run(network, held))
        pinned = held.pin_memory()
        # `.cpu()` waits for the device, so a run ends when its result is there.
        return Task(lambda: self._run(network, pinned.to(self._device, non_blocking=True)).cpu())

    def _run(self, network: Callable[[Any], Any], rows: Any) -> Any:
        with self._torch.inference_mode():
            if self._cuda:
                self._torch.compiler.cudagraph_mark_step_begin()
            return network(rows)

    def _apply(self, network: Callable[[Any], Any], rows: NDArray[np.generic]) -> Any:
        moved = self._torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)
        return self._run(network, moved).float().cpu().numpy()

    def _check(self, bundle: Bundle, precision: str) -> float:
        """Largest |Δp| on the golden clips; raises EngineError past the tolerance of `precision`."""
        golden = bundle.golden()
        found = np.concatenate([self._apply(self._whole, clip) for clip in golden.frames])
        difference = float(np.abs(found - golden.probabilities).max())
        tolerance = bundle.manifest.golden.tolerance
        # No bundle states one for bf16, which has less of a mantissa than fp16: it gets the widest of what the bundle allows.
        limits = {str(each): value for each, value in tolerance.items()} | {"bf16": max(tolerance.values())}
        limit = limits.get(precision, tolerance["fp32"])
        if not difference <= limit:  # NaN must fail, too
            raise EngineError(
                f"torch at {precision} differs from the float reference of {bundle.manifest.name} by {difference:.3g} in "
                f"probability, the limit is {limit:.3g}: no baseline to compare with"
            )
        return difference

    def _compile(self, bundle: Bundle, mode: Mode) -> tuple[str, ...]:
        """Compile every network; where that fails they run as they are, and the note says so."""
        torch = self._torch
        torch.backends.cudnn.benchmark = True
        if mode == "eager":
            return ("eager",)
        plain = self._networks
        # One code object serves every batch size, and each compiles anew.
        torch._dynamo.config.recompile_limit = 64  # noqa: SLF001  # where torch keeps its settings
        options = None if mode == "default" else mode
        self._networks = {
            stage: torch.compile(network, mode=options, dynamic=False) for stage, network in plain.items()
        }
        try:
            self._apply(self._whole, bundle.golden().frames[0])
        except Exception as error:  # noqa: BLE001  # compilers fail in many ways, and torch runs without one
            self._networks = plain
            reason = str(error).strip().splitlines()[0]
            logger.warning("torch.compile (%s) failed, the baseline runs eagerly: %s", mode, reason)
            return (f"eager, for torch.compile failed: {reason[:200]}",)
        return (f"torch.compile {mode}",)


class _Lane:
    """Pinned rows, and a pinned place for the result, of one batch under way on a GPU."""

    def __init__(self, torch: Any, frames: NDArray[np.uint8]) -> None:
        self._rows = torch.from_numpy(np.ascontiguousarray(frames)).pin_memory()
        self._done = torch.cuda.Event()
        self._result: Any = None

    def begin(self, network: Callable[[Any], Any], device: Any) -> None:
        found = network(self._rows.to(device, non_blocking=True))
        if self._result is None:
            self._result = found.new_empty(found.shape, device="cpu").pin_memory()
        self._result.copy_(found, non_blocking=True)
        self._done.record()

    def wait(self) -> None:
        self._done.synchronize()


def _torch() -> Any:
    try:
        import onnx  # noqa: F401, PLC0415  # reads the graphs
        import torch  # noqa: PLC0415  # seconds to import, and never a dependency
    except ImportError as error:
        raise EngineUnavailable(
            f"the torch baseline needs {error.name}, which is not installed; pip install torch onnx"
        ) from None
    return torch
