"""OpenVINO on the CPU: the very `encoder.int8.onnx` that TensorRT builds on a GPU.

# Note [Clip networks in float32]
Under int8 what is not INT8 in a clip network runs in float32, for two reasons. It holds what a head holds, LSTMs and
ConvLSTMs, whose states would be rounded at every step: bf16 moved probabilities by up to 0.018, and saved nothing of the time
of a CNN with an LSTM, 15 % of that of a C3D, 42 % of that of a ConvLSTM. And on CPUs with AMX, OpenVINO 2026.4 gives wrong
numbers for a 3D convolution in bf16 or int8 that pads the time of a clip of one frame, where its input channels are no
multiple of 4, as colours are. Golden clips are longer as a rule, so one frame is tried beside the float network, too.

# Note [Heads on onnxruntime]
What a head costs with OpenVINO is mostly not the computing: 3 ms of processor time for the shipped bundle fight (an LSTM over 16
frames), 0.15 ms with onnxruntime, on the same graph and with the same float32 results to 2e-8. Only batches of many long clips
go the other way, 9 ms against 7 for 16 clips of 16 frames of imagenet, whose encoder takes 1,500 ms.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Precision, Role, Stage
from service.bundle.store import Bundle
from service.engine.base import TITLES, EngineInfo, Outputs, Place
from service.engine.buckets import largest_batch
from service.engine.ort import OnnxNetwork
from service.errors import EngineError

logger = logging.getLogger(__name__)

# Measured (CONTRIBUTING, Where a measurement decided): a row costs no less in larger batches, and each size costs time at start.
_MAX_BATCH = 16


class OpenVinoEngine:
    """Under fp32 nothing runs in less. Under int8 the encoder's float remainder runs in bf16 where the CPU computes it
    natively; a head is always fp32 (Note [Heads on onnxruntime]), and so is the float remainder of a clip network
    (Note [Clip networks in float32]).
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

        def compiled(role: Role, hint: str) -> Any:
            options = {
                "INFERENCE_PRECISION_HINT": hint,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": place.threads,
                # The decoders share these cores: a pinned thread would wait for its own while another is free.
                "ENABLE_CPU_PINNING": False,
            }
            return core.compile_model(str(bundle.file(role)), "CPU", options).create_infer_request()

        self._head = _head(bundle, threads=place.threads) if "head" in stages else None
        try:
            self._requests: dict[Stage, Any] = {
                stage: compiled(role, "bf16" if stage == "encoder" and remainder == "bf16" else "f32")
                for stage, role in roles.items()
                if stage != "head" or self._head is None
            }
            if precision == "int8" and "clip" in stages and bundle.manifest.network.static_frames is None:
                _try_one_frame(bundle, self._requests["clip"], compiled("clip", "f32"))
        except RuntimeError as error:
            raise EngineError(
                f"openvino cannot compile bundle {bundle.manifest.name} at {precision}: {error}"
            ) from error
        # A tensor may go by several names there, so outputs are asked for by the manifest's.
        self._outputs = {stage: [each.name for each in bundle.artifact(role).outputs] for stage, role in roles.items()}
        self.info = EngineInfo(
            "openvino",
            precision,
            remainder,
            core.get_property("CPU", "FULL_DEVICE_NAME").strip(),
            largest_batch(bundle.manifest, frames=_MAX_BATCH),
            stages,
            head_engine="onnxruntime" if self._head is not None else None,
        )

    def run(self, stage: Stage, rows: NDArray[np.generic]) -> Outputs:
        """Rows in, as many rows out; see `Engine.run`."""
        if stage == "head" and self._head is not None:
            return self._head.run(rows)
        try:
            results = self._requests[stage].infer([rows], share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise EngineError(f"openvino failed in the {TITLES[stage]} on rows {list(rows.shape)}: {error}") from error
        return {name: results[name] for name in self._outputs[stage]}

    def close(self) -> None:
        self._requests.clear()
        self._head = None


def _head(bundle: Bundle, *, threads: int) -> OnnxNetwork | None:
    """None where onnxruntime does not work: OpenVINO runs the head, too, then. See Note [Heads on onnxruntime]."""
    try:
        return OnnxNetwork(bundle.file("head"), "head", threads=threads, spin=False)
    except Exception as error:  # noqa: BLE001  # whatever importing it brings about
        logger.warning("onnxruntime cannot run the head, openvino runs it, more slowly: %s", error)
        return None


def _try_one_frame(bundle: Bundle, int8: Any, floats: Any) -> None:
    """Raise EngineError where `int8` says something else than `floats` to single frames; see Note [Clip networks in float32]."""
    frames = bundle.golden().frames[:, :1]
    try:
        expected = floats.infer([frames], share_outputs=False)["probabilities"]
    except RuntimeError:
        return  # the network takes no clip of one frame at all
    difference = float(np.abs(int8.infer([frames])["probabilities"] - expected).max())
    limit = 2 * bundle.manifest.golden.tolerance.get("int8", 0.0)  # not the clips that the limit was measured on
    if not difference <= limit:
        raise EngineError(
            f"openvino at int8 differs from its own fp32 by {difference:.3g} in probability for a clip of one frame, the limit is "
            f"{limit:.3g}; quantize the bundle again with marey-build quantize, or use --precision fp32"
        )
