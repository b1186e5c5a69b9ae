"""OpenVINO on the CPU: the very `encoder.int8.onnx` that TensorRT builds on a GPU."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Precision, Stage
from service.bundle.store import Bundle
from service.engine.base import TITLES, EngineInfo, Outputs, Place
from service.engine.buckets import largest_batch
from service.errors import EngineError

# Measured (CONTRIBUTING, Where a measurement decided): a row costs no less in larger batches, and each size costs time at start.
_MAX_BATCH = 16


class OpenVinoEngine:
    """Under fp32 nothing runs in less. Under int8 the encoder's float remainder runs in bf16 where the CPU computes it
    natively; the head is always fp32.
    """

    def __init__(self, bundle: Bundle, *, precision: Precision, place: Place) -> None:
        import openvino  # noqa: PLC0415  # 0.3 s that only the engine's own users pay

        if precision == "fp16":
            raise EngineError("openvino on a CPU does not run fp16; choose --precision int8 or fp32")
        core = openvino.Core()
        stages = bundle.manifest.network.stages
        native = precision == "int8" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        remainder: Literal["bf16", "fp32"] = "bf16" if native and "encoder" in stages else "fp32"
        roles = {stage: bundle.manifest.role(stage, precision) for stage in stages}
        try:
            compiled = {
                stage: core.compile_model(
                    str(bundle.file(role)),
                    "CPU",
                    {
                        "INFERENCE_PRECISION_HINT": "bf16" if stage == "encoder" and remainder == "bf16" else "f32",
                        "PERFORMANCE_HINT": "LATENCY",
                        "INFERENCE_NUM_THREADS": place.threads,
                        # The decoders share these cores: a pinned thread would wait for its own while another is free.
                        "ENABLE_CPU_PINNING": False,
                    },
                )
                for stage, role in roles.items()
            }
        except RuntimeError as error:
            raise EngineError(
                f"openvino cannot compile bundle {bundle.manifest.name} at {precision}: {error}"
            ) from error
        self._requests: dict[Stage, Any] = {stage: model.create_infer_request() for stage, model in compiled.items()}
        # A tensor may go by several names there, so outputs are asked for by the manifest's.
        self._outputs = {stage: [each.name for each in bundle.artifact(role).outputs] for stage, role in roles.items()}
        self.info = EngineInfo(
            "openvino",
            precision,
            remainder,
            core.get_property("CPU", "FULL_DEVICE_NAME").strip(),
            largest_batch(bundle.manifest, frames=_MAX_BATCH),
            stages,
        )

    def run(self, stage: Stage, rows: NDArray[np.generic]) -> Outputs:
        """Rows in, as many rows out; see `Engine.run`."""
        try:
            results = self._requests[stage].infer([rows], share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise EngineError(f"openvino failed in the {TITLES[stage]} on rows {list(rows.shape)}: {error}") from error
        return {name: results[name] for name in self._outputs[stage]}

    def close(self) -> None:
        self._requests.clear()
