"""Which calls treat every frame of a clip alike, so that they may run on single frames in the encoder."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from models.export.trace import Call, Edge

# Layers that never mix frames whatever their settings: elementwise, or idle once the model is trained.
_ALWAYS = (
    layers.TimeDistributed, layers.Rescaling, layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dense, layers.Identity,
    layers.Dropout, layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout, layers.ActivityRegularization,
    layers.RandomFlip, layers.RandomRotation, layers.RandomZoom, layers.RandomTranslation, layers.RandomContrast, layers.RandomBrightness,
    layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum,
)  # fmt: skip
# Layers that do not where their axis is the last.
_LAST_AXIS = (
    layers.Normalization,
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.Concatenate,
    layers.Softmax,
)
# Operations of keras.ops that work element by element.
_ELEMENTWISE = {
    "Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Negative", "Abs", "Absolute", "Square", "Sqrt", "Exp",
    "Log", "Power", "Clip", "Cast", "Relu", "Relu6", "Sigmoid", "Tanh", "Silu", "Gelu",
}  # fmt: skip


def is_per_frame(call: Call) -> bool:
    """Whether `call`, on clips `[B, T, …]`, does to each frame what it would do to the frame alone."""
    operation = call.operation
    rank = max(edge.rank for edge in call.inputs)
    if any(edge.rank != rank for edge in call.inputs):
        return False
    if isinstance(operation, _ALWAYS):
        return True
    if isinstance(operation, _LAST_AXIS):
        return all(axis in (-1, rank - 1) for axis in _axes(operation))
    return not call.is_layer and type(operation).__name__ in _ELEMENTWISE and _constants_broadcast(call)


def frame_settings(layer: Any) -> dict[str, Any]:
    """Settings to change where a layer moves from clips to frames: an axis counted from the front means another there."""
    return {"axis": -1} if isinstance(layer, _LAST_AXIS) and _axes(layer) else {}


def _axes(layer: Any) -> tuple[int, ...]:
    axis = layer.axis
    return tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)


def _constants_broadcast(call: Call) -> bool:
    """A constant of one value or one per channel means the same on a frame; one with a time axis would not."""
    flat = keras.tree.flatten((call.args, dict(call.kwargs)))
    return all(isinstance(part, Edge) or len(getattr(part, "shape", ())) <= 1 for part in flat)
