"""Are the two graphs what the Keras model is? Measured at several batches and lengths, and a condition of export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import onnx
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.export.model.own_answers import own_answers
from models.export.normalization import Normalization
from models.export.runtime import Runtime
from models.export.split.reference import Reference
from models.export.split.split import Split
from models.synthetic import synthetic_clips

LIMIT = 1e-4
# A model of mixed precision is exported in float32, and rounds its own answers.
_LIMITS = {"float16": 2e-2, "bfloat16": 1e-1}
_SHAPES = ((1, 1), (2, 7), (5, 30))
# The last shape is 150 frames: above so many pixels each frame is used several times over, in another order for each clip.
_PIXELS = 4_000_000
_CLIPS = 5  # the rank of clips [B, T, H, W, C]


def compare_graphs(
    reference: Reference, encoder: onnx.ModelProto, head: onnx.ModelProto, *, static_frames: int | None, seed: int
) -> list[dict[str, Any]]:
    """ONNX in onnxruntime against `reference` at (B, T) of three shapes; raises ExportRefused where a probability is off by > 1e-4."""
    height, width, channels = reference.encoder.input_shape[1:]
    shapes = [(batch, static_frames or length) for batch, length in _SHAPES]
    pool = max(8, min(max(batch * length for batch, length in shapes), _PIXELS // (height * width)))
    frames = synthetic_clips(count=1, frames=pool, height=height, width=width, channels=channels, seed=seed)[0]
    run_encoder, run_head = Runtime(encoder), Runtime(head)
    wanted = reference.features(frames)
    found = np.concatenate(
        [run_encoder(part)["features"] for part in np.split(frames, [1, 8])]
    )  # N = 1, 7 and the rest
    order = np.random.default_rng(seed)
    rows = []
    for batch, length in shapes:
        picked = np.stack([np.resize(order.permutation(pool), length) for _ in range(batch)])
        ours, theirs = run_head(found[picked]), reference.probabilities(wanted[picked])
        row = {
            "batch": batch,
            "frames": length,
            **{name: float(np.abs(ours[name] - theirs[name]).max()) for name in theirs},
        }
        rows.append({**row, "features": float(np.abs(found[picked] - wanted[picked]).max())})
        if not all(ours[name].shape == theirs[name].shape and rows[-1][name] <= LIMIT for name in theirs):
            raise ExportRefused(
                f"at {batch} clips of {length} frames the exported graphs differ from Keras by {max(rows[-1][name] for name in theirs):.2g} "
                f"in probability, the limit is {LIMIT:g}; the layer at fault is one whose export is wrong, please report the model's layers"
            )
    return rows


def compare_split(
    model: keras.Model,
    split: Split,
    reference: Reference,
    *,
    normalization: Normalization,
    lengths: Sequence[int],
    seed: int,
) -> float:
    """The largest difference, in any output, between the user's own model, fed as its author fed it, and the two parts that took its place.

    Raises ExportRefused past 1e-4; past 2e-2 and 1e-1 where the model computes in float16 and bfloat16.
    """
    height, width, channels = reference.encoder.input_shape[1:]
    fixed = next((tensor.shape[1] for tensor in model.inputs if len(tensor.shape) == _CLIPS), None)
    worst = 0.0
    for length in (fixed,) if fixed else lengths:
        clips = synthetic_clips(count=2, frames=length, height=height, width=width, channels=channels, seed=seed)
        wanted = own_answers(
            model, normalization.apply(clips), source=split.source, outputs=split.outputs, added=split.added
        )
        features = reference.features(clips.reshape(-1, height, width, channels)).reshape(2, length, -1)
        found = reference.probabilities(features)
        if found.keys() != wanted.keys() or any(found[name].shape != wanted[name].shape for name in wanted):
            raise ExportRefused(
                f"encoder and head answer {_shapes(found)} where the model answers {_shapes(wanted)}; please report the model's layers"
            )
        worst = max(worst, *(float(np.abs(found[name] - wanted[name]).max()) for name in wanted))
    limit = max(_LIMITS.get(layer.compute_dtype, LIMIT) for layer in model._flatten_layers())  # noqa: SLF001 -- nested ones as well
    if not worst <= limit:
        raise ExportRefused(
            f"encoder and head together differ from the model itself by {worst:.2g} in probability, the limit is {limit:g}; "
            "a layer behaves otherwise on single frames than on clips, please report the model's layers"
        )
    return worst


def _shapes(outputs: dict[str, NDArray[np.float32]]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
