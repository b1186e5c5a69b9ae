"""TensorRT on an NVIDIA GPU, the full library or TensorRT-RTX: builds what is not cached, and runs it through PyCUDA."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Precision, Stage
from service.bundle.store import Bundle
from service.engine.base import EngineInfo, Outputs, Place
from service.engine.buckets import buckets_for
from service.engine.cache import EngineAbsent
from service.engine.cuda import Device
from service.engine.flavour import load_flavour, log_of
from service.engine.network import SLOTS, Network
from service.engine.plans import PlanSource
from service.engine.profiles import fixed_of, most_rows
from service.errors import BuildCancelled, DeviceFull, DeviceLost, EngineError

logger = logging.getLogger(__name__)


class TensorRtEngine:
    """The networks of a bundle on one GPU. Under int8 and fp16 all that is not INT8 is fp16; under fp32 nothing runs in less.

    `graphs` False launches kernels one by one in place of recorded CUDA graphs.
    """

    def __init__(self, bundle: Bundle, *, precision: Precision, place: Place, graphs: bool = True) -> None:
        self._thread = threading.get_ident()
        self._device = Device.open(place.device)  # first: without a GPU, nobody waits for TensorRT's libraries to load
        self._flavour = load_flavour()
        self._bundle, self._graphs = bundle, graphs
        self._source = PlanSource(bundle, precision=precision, flavour=self._flavour, device=self._device, place=place)
        with self._device.current():
            self._runtime = self._flavour.trt.Runtime(log_of(self._flavour.name).sink)
        self._cancelled = place.cancelled
        self.kept = True  # in the cache, so that the next start need not build
        self._networks = self._from_cache() or self._built()
        try:
            self._keep_kernels(must_keep=place.must_keep)
        except BaseException:
            self.close()
            raise
        self.info = EngineInfo(
            "tensorrt",
            precision,
            "fp32" if precision == "fp32" else "fp16",
            f"{self._device.name} ({self._flavour}, cuda:{place.device})",
            most_rows(bundle.manifest),
            self._source.stages,
        )

    @property
    def cuda_graphs(self) -> int:
        """How many CUDA graphs are in use, of all networks together."""
        return sum(network.graphs for network in self._networks.values())

    def run(self, stage: Stage, rows: NDArray[np.generic]) -> Outputs:
        """Rows in, as many rows out; see `Engine.run`. Many rows are cut into batches, two of them under way at a time."""
        most = self.info.max_batch
        cuts = (
            [(start, size := min(most, len(rows) - start), size) for start in range(0, len(rows), most)]
            if stage == "head"
            else list(buckets_for(len(rows), largest=most))
        )
        waiting: deque[Callable[[], Outputs]] = deque()
        parts: list[Outputs] = []
        try:
            for start, count, bucket in cuts:
                if len(waiting) == SLOTS:
                    parts.append(waiting.popleft()())
                waiting.append(self.begin(stage, [rows[start : start + count]], bucket=bucket))
            while waiting:
                parts.append(waiting.popleft()())
        finally:  # after a failure the slots of the others must be free again
            for left in waiting:
                with suppress(EngineError):
                    left()
        return (
            parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        )

    def begin(self, stage: Stage, blocks: Sequence[NDArray[np.generic]], *, bucket: int) -> Callable[[], Outputs]:
        """See `Overlapping.begin`."""
        if threading.get_ident() != self._thread:
            raise EngineError(
                "the engine was called on another thread than the one that opened it; use the device thread"
            )
        return self._networks[stage].begin(blocks, rows=bucket)

    def close(self) -> None:
        """Give all of it back; what one network complains of does not keep the others."""
        with ExitStack() as stack:
            stack.enter_context(self._device.current())
            stack.callback(setattr, self, "_runtime", None)
            for network in self._networks.values():
                stack.callback(network.close)
            self._networks = {}

    def _from_cache(self) -> dict[Stage, Network] | None:
        """The networks of the cached engine, or None after a line that says why it is built anew."""
        try:
            return self._opened(self._source.cached())
        except (BuildCancelled, DeviceFull, DeviceLost):
            raise
        except EngineError as error:
            logger.log(
                logging.INFO if isinstance(error, EngineAbsent) else logging.WARNING,
                "bundle %s: a TensorRT engine is built, which can take minutes: %s",
                self._bundle.manifest.name,
                error,
            )
            return None

    def _built(self) -> dict[Stage, Network]:
        """Build, load, and only then keep. TensorRT-RTX may not know the GPU at hand, but run a plan for all that it knows."""
        refused: list[str] = []
        for this_gpu in (True, False) if self._flavour.rtx else (True,):
            began = time.monotonic()
            try:
                with self._device.current():  # without a context TensorRT would build for the first GPU
                    plans = self._source.build(this_gpu=this_gpu)
                seconds = time.monotonic() - began
                networks = self._opened(plans)
            except (BuildCancelled, DeviceFull, DeviceLost):
                raise
            except EngineError as error:
                refused.append(
                    f"for {'this' if this_gpu else 'every'} GPU: {error}" if self._flavour.rtx else str(error)
                )
                continue
            logger.info("bundle %s: engine built in %.1f s", self._bundle.manifest.name, seconds)
            self.kept = self._source.keep(plans, seconds=seconds)
            return networks
        raise EngineError("; ".join(refused))

    def _opened(self, plans: dict[Stage, bytes]) -> dict[Stage, Network]:
        networks: dict[Stage, Network] = {}
        try:
            for stage in self._source.stages:
                networks[stage] = Network(
                    plans[stage],
                    flavour=self._flavour,
                    runtime=self._runtime,
                    device=self._device,
                    profiles=self._source.profiles[stage],
                    fixed=fixed_of(self._bundle.manifest, stage),
                    graphs=self._graphs,
                    kernels=self._source.kernels(stage),
                    cancelled=self._cancelled,
                )
        except BaseException:
            for network in networks.values():
                network.close()
            raise
        return networks

    def _keep_kernels(self, *, must_keep: bool) -> None:
        """TensorRT-RTX has compiled what it needs by now; the next start need not. Raises EngineError if that is a must."""
        if must_keep and not self.kept:
            raise EngineError(
                f"the engine runs, but it could not be kept in {self._source.cache.root}; "
                "set MAREY_ENGINE_CACHE to a folder that can be written, with room for it"
            )
        for stage, network in self._networks.items() if self.kept else ():
            with self._device.current():
                kernels = network.kernels
            if kernels is not None and kernels != self._source.kernels(stage):
                self._source.keep_kernels(stage, kernels)
