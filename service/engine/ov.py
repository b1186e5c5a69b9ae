"""OpenVINO on the CPU: the very `encoder.int8.onnx` that TensorRT builds on a GPU."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Precision, Role
from service.bundle.store import Bundle
from service.engine.base import EngineInfo, Outputs, Place, Stage
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
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        remainder: Literal["bf16", "fp32"] = "bf16" if precision == "int8" and "BF16" in capabilities else "fp32"
        role: Role = "encoder.int8" if precision == "int8" else "encoder"
        hints = {"encoder": {"fp32": "f32", "bf16": "bf16"}[remainder], "head": "f32"}
        files = {"encoder": bundle.file(role), "head": bundle.file("head")}
        try:
            compiled = {
                stage: core.compile_model(
                    str(files[stage]),
                    "CPU",
                    {
                        "INFERENCE_PRECISION_HINT": hint,
                        "PERFORMANCE_HINT": "LATENCY",
                        "INFERENCE_NUM_THREADS": place.threads,
                        # The decoders share these cores: a pinned thread would wait for its own while another is free.
                        "ENABLE_CPU_PINNING": False,
                    },
                )
                for stage, hint in hints.items()
            }
        except RuntimeError as error:
            raise EngineError(
                f"openvino cannot compile bundle {bundle.manifest.name} at {precision}: {error}"
            ) from error
        self._requests: dict[str, Any] = {stage: model.create_infer_request() for stage, model in compiled.items()}
        # A tensor may go by several names there, so outputs are asked for by the manifest's.
        roles: dict[str, Role] = {"encoder": role, "head": "head"}
        self._outputs = {stage: [each.name for each in bundle.artifact(roles[stage]).outputs] for stage in roles}
        self.info = EngineInfo(
            "openvino", precision, remainder, core.get_property("CPU", "FULL_DEVICE_NAME").strip(), _MAX_BATCH
        )

    def run(self, stage: Stage, rows: NDArray[np.generic]) -> Outputs:
        """Rows in, as many rows out; see `Engine.run`."""
        try:
            results = self._requests[stage].infer([rows], share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise EngineError(f"openvino failed in the {stage} on rows {list(rows.shape)}: {error}") from error
        return {name: results[name] for name in self._outputs[stage]}

    def close(self) -> None:
        self._requests.clear()
