"""What INT8 changes in the answers, as OpenVINO runs it: on the golden clips and on the calibration frames."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.export.runtime import Runtime
from service.bundle.store import GoldenClips

_BATCH = 16
# Another fusion order flips roundings by up to 1.4e-2 (measured), and more where the network is less robust to them: of the
# same INT8 graph of `imagenet`, OpenVINO is off by 0.143 and onnxruntime with its optimizers by 0.208.
_FLOOR, _MARGIN, _FACTOR = 3e-2, 2e-2, 1.75


class OpenVino:
    """One graph on the CPU under one precision hint, in batches of a fixed size: each new size costs OpenVINO 50 ms."""

    def __init__(self, data: bytes, *, hint: str) -> None:
        import openvino  # noqa: PLC0415 -- 0.3 s that only this step pays

        core = openvino.Core()
        model = core.compile_model(core.read_model(io.BytesIO(data)), "CPU", {"INFERENCE_PRECISION_HINT": hint})
        self._request = model.create_infer_request()

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`[N, H, W, C]` → features `[N, D]`."""
        parts = []
        for start in range(0, len(frames), _BATCH):
            batch = frames[start : start + _BATCH]
            padded = np.concatenate([batch, np.zeros((_BATCH - len(batch), *batch.shape[1:]), np.uint8)])
            parts.append(self._request.infer([padded], share_outputs=False)[0][: len(batch)])
        return np.concatenate(parts)


def hints() -> tuple[str, ...]:
    """f32, and bf16 where this CPU computes it natively."""
    import openvino  # noqa: PLC0415

    return ("f32", "bf16") if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else ("f32",)


def golden_difference(encoder: bytes, head: bytes, golden: GoldenClips) -> dict[str, float]:
    """The largest |Δp| of the quantized `encoder` against the float reference, by OpenVINO's hint."""
    run_head = Runtime(head)
    count, length = golden.frames.shape[:2]
    flat = golden.frames.reshape(count * length, *golden.frames.shape[2:])
    found: dict[str, float] = {}
    for hint in hints():
        features = OpenVino(encoder, hint=hint)(flat).reshape(count, length, -1)
        found[hint] = float(np.abs(run_head(features)["probabilities"] - golden.probabilities).max())
    return found


def tolerance(differences: dict[str, float]) -> float:
    """The golden limit for INT8: what was measured with a margin for other CPUs and fusions, and never under 3e-2."""
    return round(max(_FLOOR, _FACTOR * max(differences.values()) + _MARGIN), 3)


def agreement(
    floats: bytes, int8: bytes, head: bytes, frames: NDArray[np.uint8], *, clip_frames: int
) -> dict[str, Any]:
    """How often INT8 and float name the same class, each `clip_frames` consecutive frames being one clip."""
    count = len(frames) // clip_frames
    used = frames[: count * clip_frames]
    run_float, run_head = Runtime(floats), Runtime(head)
    wanted = np.concatenate(
        [run_float(used[start : start + _BATCH])["features"] for start in range(0, len(used), _BATCH)]
    )
    found = OpenVino(int8, hint=hints()[-1])(used)
    p, q = (run_head(features.reshape(count, clip_frames, -1))["probabilities"] for features in (wanted, found))
    cosine = (wanted * found).sum(axis=1) / np.maximum(
        np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1), 1e-12
    )
    return {
        "clips": count,
        "clip_frames": clip_frames,
        "top1_agreement": float((p.argmax(axis=1) == q.argmax(axis=1)).mean()),
        "mean_probability_difference": float(np.abs(p - q).max(axis=1).mean()),
        "max_probability_difference": float(np.abs(p - q).max()),
        "feature_cosine_mean": float(cosine.mean()),
        "feature_cosine_min": float(cosine.min()),
    }
