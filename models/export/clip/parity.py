"""Is a clip network what the Keras model is? Both its float reference and its graph are held against the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import onnx
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.export.clip.reading import ClipReading
from models.export.clip.reference import ClipReference
from models.export.model.own_answers import own_answers
from models.export.normalization import Normalization
from models.export.runtime import Runtime
from models.export.split.parity import LIMIT
from models.synthetic import synthetic_clips

Shapes = Sequence[tuple[int, int]]
_Answers = dict[str, NDArray[np.float32]]


def parity_shapes(frames: int | None) -> Shapes:
    """(B, T) at which a clip network is measured: three T where it is free, else three B."""
    return ((1, 1), (2, 7), (3, 2)) if frames is None else ((1, frames), (2, frames), (5, frames))


def compare_reference(
    model: keras.Model,
    reading: ClipReading,
    reference: ClipReference,
    *,
    normalization: Normalization,
    shapes: Shapes,
    seed: int,
) -> float:
    """The largest difference, in any output, between the user's own model and its reference; raises ExportRefused past 1e-4."""
    worst = 0.0
    for batch, length in shapes:
        clips = _clips(reference, batch, length, seed)
        fed = normalization.apply(clips)
        wanted = own_answers(model, fed, source=reading.source, outputs=reading.outputs, added=reading.added)
        worst = max(worst, *_differences(reference.outputs(clips), wanted).values())
        if not worst <= LIMIT:
            raise ExportRefused(
                f"at {batch} clips of {length} frames the rebuilt network differs from the model itself by {worst:.2g}, the limit is "
                f"{LIMIT:g}; a layer behaves otherwise in evaluation than its settings say, please report the model's layers"
            )
    return worst


def compare_graph(
    reference: ClipReference, graph: onnx.ModelProto, *, shapes: Shapes, seed: int
) -> list[dict[str, Any]]:
    """ONNX in onnxruntime against `reference`, a row for each (B, T); raises ExportRefused where an output is off by > 1e-4."""
    run, rows = Runtime(graph), []
    for batch, length in shapes:
        clips = _clips(reference, batch, length, seed)
        found = _differences(run(clips), reference.outputs(clips))
        rows.append({"batch": batch, "frames": length, **found})
        if not max(found.values()) <= LIMIT:
            raise ExportRefused(
                f"at {batch} clips of {length} frames the exported graph differs from Keras by {max(found.values()):.2g}, the limit is "
                f"{LIMIT:g}; the layer at fault is one whose export is wrong, please report the model's layers"
            )
    return rows


def _clips(reference: ClipReference, batch: int, length: int, seed: int) -> NDArray[np.uint8]:
    height, width, channels = reference.frame_shape
    return synthetic_clips(count=batch, frames=length, height=height, width=width, channels=channels, seed=seed)


def _differences(found: _Answers, wanted: _Answers) -> dict[str, float]:
    """By output; infinite where shapes differ, NaN where an answer is."""
    fits = found.keys() == wanted.keys()
    return {
        name: float(np.abs(found[name] - wanted[name]).max())
        if fits and found[name].shape == wanted[name].shape
        else np.inf
        for name in wanted
    }
