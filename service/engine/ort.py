"""onnxruntime: the float graphs, on CPU or CUDA; the independent reference beside the other engines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Precision, Stage
from service.bundle.store import Bundle
from service.engine.base import TITLES, EngineInfo, Outputs, Place
from service.engine.buckets import largest_batch
from service.errors import EngineError


class OnnxRuntimeEngine:
    """fp32 only: on a CPU, the symmetric int8 graph is slower here than the float one."""

    def __init__(self, bundle: Bundle, *, precision: Precision, place: Place) -> None:
        import onnxruntime  # noqa: PLC0415  # only the engine's own users pay for it

        if precision != "fp32":
            raise EngineError(
                f"onnxruntime runs the float graphs only, not {precision}; choose --precision fp32, or openvino"
            )
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = place.threads
        options.log_severity_level = 3
        cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        # TF32 would round the inputs of every product to 10 bits: fp32 means fp32.
        providers: list[Any] = [("CUDAExecutionProvider", {"use_tf32": "0"})] if cuda else []
        stages = bundle.manifest.network.stages
        try:
            self._sessions: dict[Stage, Any] = {
                stage: onnxruntime.InferenceSession(
                    str(bundle.file(stage)), options, providers=[*providers, "CPUExecutionProvider"]
                )
                for stage in stages
            }
        except Exception as error:  # onnxruntime's exceptions share no base class but this
            raise EngineError(f"onnxruntime cannot load bundle {bundle.manifest.name}: {error}") from error
        device = "cuda" if self._sessions[stages[0]].get_providers()[0] == "CUDAExecutionProvider" else "cpu"
        most = largest_batch(bundle.manifest, frames=64 if cuda else 16)
        self.info = EngineInfo("onnxruntime", "fp32", "fp32", device, most, stages)

    def run(self, stage: Stage, rows: NDArray[np.generic]) -> Outputs:
        """Rows in, as many rows out; see `Engine.run`."""
        session = self._sessions[stage]
        try:
            arrays = session.run(None, {session.get_inputs()[0].name: rows})
        except Exception as error:  # as above
            raise EngineError(
                f"onnxruntime failed in the {TITLES[stage]} on rows {list(rows.shape)}: {error}"
            ) from error
        return {output.name: array for output, array in zip(session.get_outputs(), arrays, strict=True)}

    def close(self) -> None:
        self._sessions.clear()
