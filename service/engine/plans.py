"""The plans of a TensorRT engine, one for each network of the bundle: from the cache where they fit, else built and cached."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial

from service import __version__
from service.bundle.manifest import Precision, Stage
from service.bundle.store import Bundle
from service.engine.base import Place
from service.engine.build import Profile, Progress, build_plan
from service.engine.cache import EngineCache, EngineKey
from service.engine.cuda import Device
from service.engine.flavour import Flavour
from service.engine.fp16 import to_fp16
from service.engine.profiles import profiles_of
from service.errors import EngineError

logger = logging.getLogger(__name__)

# To be raised whenever the same ONNX file is turned into another network than before.
_REVISION = 1


class PlanSource:
    """Gives the plans of one bundle at one precision on one GPU."""

    def __init__(self, bundle: Bundle, *, precision: Precision, flavour: Flavour, device: Device, place: Place) -> None:
        manifest = bundle.manifest
        self.stages = manifest.network.stages
        self.profiles: dict[Stage, tuple[Profile, ...]] = {stage: profiles_of(manifest, stage) for stage in self.stages}
        self.cache = EngineCache(place.engine_cache)
        self._bundle, self._precision, self._flavour, self._place = bundle, precision, flavour, place
        self._roles = {stage: manifest.role(stage, precision) for stage in self.stages}
        calibration = manifest.calibration
        self.key = EngineKey(
            bundle=manifest.name,
            precision=precision,
            onnx={stage: bundle.artifact(role).sha256 for stage, role in self._roles.items()},
            calibration=calibration.data_sha256 if calibration is not None and precision == "int8" else None,
            tensorrt=str(flavour),
            gpu=device.name,
            compute_capability=device.compute_capability,
            profiles=self.profiles,
            flags={"marey": __version__, "revision": _REVISION, "tf32": False},
        )

    def cached(self) -> dict[Stage, bytes]:
        """Every plan from the cache; raises EngineRefused with the reason."""
        files = self.cache.load(self.key, tuple(f"{stage}.plan" for stage in self.stages))
        return {stage: files[f"{stage}.plan"] for stage in self.stages}

    def build(self, *, this_gpu: bool) -> dict[Stage, bytes]:
        """Every plan, built now; see `build_plan`. Raises EngineError."""
        plans: dict[Stage, bytes] = {}
        for stage in self.stages:
            plan = build_plan(
                self._onnx(stage),
                flavour=self._flavour,
                profiles=self.profiles[stage],
                this_gpu=this_gpu,
                timing_cache=self.cache.timings(self.key) or b"",
                progress=self._progress(stage),
                cancelled=self._place.cancelled,
            )
            plans[stage] = plan.data
            if plan.timing_cache is not None:
                self._try_to_keep(partial(self.cache.keep_timings, self.key, plan.timing_cache))
        return plans

    def keep(self, plans: Mapping[Stage, bytes], *, seconds: float) -> bool:
        """Cache plans that have been loaded well; where that cannot be, say so and give False."""
        files = {f"{stage}.plan": data for stage, data in plans.items()}
        built = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(seconds, 1)}
        return self._try_to_keep(lambda: self.cache.save(self.key, files, built=built))

    def kernels(self, stage: Stage) -> bytes | None:
        """What TensorRT-RTX compiled from the plan in an earlier process, if that was kept."""
        return self.cache.find(self.key, f"{stage}.kernels")

    def keep_kernels(self, stage: Stage, data: bytes) -> None:
        self._try_to_keep(lambda: self.cache.add(self.key, f"{stage}.kernels", data))

    def _onnx(self, stage: Stage) -> bytes:
        graph = self._bundle.file(self._roles[stage]).read_bytes()
        return graph if self._precision == "fp32" else to_fp16(graph)

    def _progress(self, stage: Stage) -> Progress | None:
        told = self._place.progress
        return None if told is None else lambda phase, part: told(f"{stage}: {phase}", part)

    @staticmethod
    def _try_to_keep(save: Callable[[], object]) -> bool:
        try:
            save()
        except EngineError as error:
            logger.warning("the next start will take as long as this one: %s", error)
            return False
        return True
