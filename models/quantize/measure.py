"""What INT8 changes in the answers, as OpenVINO runs it: on the golden clips and on the calibration frames."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.export.runtime import Runtime
from service.bundle.manifest import Stage
from service.bundle.store import GoldenClips

_BATCH = 16
# Another fusion order flips roundings by up to 1.4e-2 (measured), and more where the network is less robust to them: of the
# same INT8 graph of `imagenet`, with MinMax ranges, OpenVINO is off by 0.143 and onnxruntime with its optimizers by 0.208.
_FLOOR, _MARGIN, _FACTOR = 3e-2, 2e-2, 1.75
# Clips `[B, T, H, W, C]` → probabilities `[B, K]`.
Answers = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class OpenVino:
    """One graph on the CPU under one precision hint, in batches of a fixed size: each new size costs OpenVINO 50 ms."""

    def __init__(self, data: bytes, *, hint: str, batch: int = _BATCH) -> None:
        import openvino  # noqa: PLC0415 -- 0.3 s that only this step pays

        core = openvino.Core()
        model = core.compile_model(core.read_model(io.BytesIO(data)), "CPU", {"INFERENCE_PRECISION_HINT": hint})
        self._request, self._batch = model.create_infer_request(), batch
        # A clip network may also tell where; a tensor may go by several names.
        self._answer = next(port for port in model.outputs if port.get_names() & {"features", "probabilities"})

    def __call__(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Frames `[N, H, W, C]` → features `[N, D]`, clips `[N, T, H, W, C]` → probabilities `[N, K]`."""
        parts = []
        for start in range(0, len(rows), self._batch):
            batch = rows[start : start + self._batch]
            padded = np.concatenate([batch, np.zeros((self._batch - len(batch), *batch.shape[1:]), np.uint8)])
            parts.append(self._request.infer([padded], share_outputs=False)[self._answer][: len(batch)])
        return np.concatenate(parts)


def hints(stage: Stage = "encoder") -> tuple[str, ...]:
    """f32, and bf16 for an encoder where this CPU computes it natively; a clip network holds what a head would, and stays in f32."""
    import openvino  # noqa: PLC0415

    native = stage == "encoder" and "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", "bf16") if native else ("f32",)


def golden_difference(int8: bytes, head: bytes | None, golden: GoldenClips) -> dict[str, float]:
    """The largest |Δp| of the `int8` encoder before its `head`, or of the clip network that has none, by OpenVINO's hint."""
    return {
        hint: float(np.abs(_quantized(int8, head, hint)(golden.frames) - golden.probabilities).max())
        for hint in hints("encoder" if head else "clip")
    }


def tolerance(differences: Mapping[str, float]) -> float:
    """The golden limit for INT8: what was measured with a margin for other CPUs and fusions, and never under 3e-2."""
    return round(max(_FLOOR, _FACTOR * max(differences.values()) + _MARGIN), 3)


def agreement(
    floats: bytes, int8: bytes, head: bytes | None, clips: NDArray[np.uint8], *, multi_label: bool
) -> dict[str, Any]:
    """How INT8 and float agree on `clips` `[B, T, H, W, C]`: on the class, of a multi-label network on each label (at 0.5).

    Of an encoder, also the cosine between the features of each frame.
    """
    hint = hints("encoder" if head else "clip")[-1]
    run = Runtime(floats)
    found: dict[str, Any] = {"clips": len(clips), "clip_frames": clips.shape[1]}
    if head is None:
        p = np.concatenate([run(clip[None])["probabilities"] for clip in clips])
        q = OpenVino(int8, hint=hint, batch=1)(clips)
    else:
        run_head, frames = Runtime(head), clips.reshape(-1, *clips.shape[2:])
        wanted = np.concatenate(
            [run(frames[start : start + _BATCH])["features"] for start in range(0, len(frames), _BATCH)]
        )
        features = OpenVino(int8, hint=hint)(frames)
        p, q = (run_head(rows.reshape(*clips.shape[:2], -1))["probabilities"] for rows in (wanted, features))
        norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(features, axis=1)
        cosine = (wanted * features).sum(axis=1) / np.maximum(norms, 1e-12)
        found |= {"feature_cosine_mean": float(cosine.mean()), "feature_cosine_min": float(cosine.min())}
    same = (p > 0.5) == (q > 0.5) if multi_label else p.argmax(axis=1) == q.argmax(axis=1)
    return {
        **found,
        "label_agreement" if multi_label else "top1_agreement": float(same.mean()),
        "mean_probability_difference": float(np.abs(p - q).max(axis=1).mean()),
        "max_probability_difference": float(np.abs(p - q).max()),
    }


def _quantized(int8: bytes, head: bytes | None, hint: str) -> Answers:
    if head is None:
        return OpenVino(int8, hint=hint, batch=1)
    encode, decide = OpenVino(int8, hint=hint), Runtime(head)

    def answers(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        features = encode(clips.reshape(-1, *clips.shape[2:]))
        return decide(features.reshape(*clips.shape[:2], -1))["probabilities"]

    return answers
