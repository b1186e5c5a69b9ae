"""onnxruntime: the float graphs, on CPU or CUDA; the independent reference beside the other engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Precision, Stage
from service.bundle.store import Bundle
from service.engine.base import TITLES, EngineInfo, Outputs, Place
from service.engine.buckets import largest_batch
from service.errors import EngineError


class OnnxNetwork:
    """One float graph. Raises EngineError, at once where it cannot be loaded, or from `run`.

    `cuda`: on the GPU where its provider takes it. `spin`: whether idle threads burn processor time to be ready sooner, which
    pays where nothing else wants it.
    """

    def __init__(self, file: Path, stage: Stage, *, threads: int, cuda: bool = False, spin: bool = True) -> None:
        import onnxruntime  # noqa: PLC0415  # only the engines' own users pay for it

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        # TF32 would round the inputs of every product to 10 bits: fp32 means fp32.
        providers: list[Any] = [("CUDAExecutionProvider", {"use_tf32": "0"})] if cuda else []
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=[*providers, "CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class but this
            raise EngineError(f"onnxruntime cannot load the {TITLES[stage]}: {error}") from error
        self._stage = stage
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    @property
    def on_cuda(self) -> bool:
        return bool(self._session.get_providers()[0] == "CUDAExecutionProvider")

    def run(self, rows: NDArray[np.generic]) -> Outputs:
        """Rows in, as many rows out; see `Engine.run`."""
        try:
            arrays = self._session.run(None, {self._input: rows})
        except Exception as error:  # as above
            raise EngineError(
                f"onnxruntime failed in the {TITLES[self._stage]} on rows {list(rows.shape)}: {error}"
            ) from error
        return dict(zip(self._outputs, arrays, strict=True))


class OnnxRuntimeEngine:
    """fp32 only: on a CPU, the symmetric int8 graph is slower here than the float one."""

    def __init__(self, bundle: Bundle, *, precision: Precision, place: Place) -> None:
        import onnxruntime  # noqa: PLC0415  # as above

        if precision != "fp32":
            raise EngineError(
                f"onnxruntime runs the float graphs only, not {precision}; choose --precision fp32, or openvino"
            )
        cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        stages = bundle.manifest.network.stages
        try:
            self._networks: dict[Stage, OnnxNetwork] = {
                stage: OnnxNetwork(bundle.file(stage), stage, threads=place.threads, cuda=cuda) for stage in stages
            }
        except EngineError as error:
            raise EngineError(f"bundle {bundle.manifest.name}: {error}") from error
        device = "cuda" if self._networks[stages[0]].on_cuda else "cpu"
        most = largest_batch(bundle.manifest, frames=64 if cuda else 16)
        self.info = EngineInfo("onnxruntime", "fp32", "fp32", device, most, stages)

    def run(self, stage: Stage, rows: NDArray[np.generic]) -> Outputs:
        """Rows in, as many rows out; see `Engine.run`."""
        return self._networks[stage].run(rows)

    def close(self) -> None:
        self._networks.clear()
