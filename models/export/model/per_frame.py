"""Which calls treat every frame of a clip alike, so that they may run on single frames in the encoder."""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import keras
from keras import layers

from models.export.model.trace import Call, Edge, Trace

# How frames stand in a tensor: as clips [B, T, …], or all in one batch [B·T, …], which some models make by reshaping.
Form = Literal["clips", "frames"]

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
    layers.UnitNormalization,
    layers.RMSNormalization,
    layers.Concatenate,
    layers.Softmax,
)
# Operations of keras.ops that work element by element.
_ELEMENTWISE = {
    "Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Negative", "Abs", "Absolute", "Square", "Sqrt", "Exp",
    "Log", "Power", "Clip", "Cast", "Relu", "Relu6", "Sigmoid", "Tanh", "Silu", "Gelu",
}  # fmt: skip
# Operations along one axis, which is that of their result.
ALONG = {
    "Stack": keras.ops.stack,
    "Concatenate": keras.ops.concatenate,
    "Flip": keras.ops.flip,
    "ExpandDims": keras.ops.expand_dims,
}
# Operations that reduce the axes which they name.
REDUCTIONS = {"Mean": keras.ops.mean, "Max": keras.ops.max, "Min": keras.ops.min, "Sum": keras.ops.sum}


def per_frame_edges(flat: Trace, clips: Edge) -> dict[Edge, Form]:
    """Every tensor in which each frame of `clips` `[B, T, H, W, C]` still stands alone."""
    found: dict[Edge, Form] = {clips: "clips"}
    for call in flat.calls:
        forms = {found.get(edge) for edge in call.inputs}
        if len(forms) == 1 and (form := forms.pop()) is not None:
            after = _form_after(call, form, clips.shape[1])
            if after is not None:
                found.update(dict.fromkeys(call.outputs, after))
    return found


def frame_settings(layer: Any) -> dict[str, Any]:
    """Settings to change where a layer moves from clips to frames: an axis counted from the front means another there."""
    return {"axis": -1} if isinstance(layer, _LAST_AXIS) and _axes(layer) else {}


def is_reshape(operation: Any) -> bool:
    """Whether `operation` is a Reshape, layer or operation."""
    return type(operation).__name__ == "Reshape"


def _form_after(call: Call, form: Form, frames: int | None) -> Form | None:
    """How frames stand after `call`, None where it lets them meet."""
    if is_reshape(call.operation):
        return _reshaped(call, form, frames)
    if form == "clips":
        return "clips" if _is_per_frame(call) else None
    alone = call.is_layer or type(call.operation).__name__ in _ELEMENTWISE or _reduces(call, from_axis=1)
    return "frames" if alone and all(edge.rank > 0 for edge in call.outputs) else None


def _reshaped(call: Call, form: Form, frames: int | None) -> Form | None:
    """A reshape of each frame, or one that folds clips into a batch of frames, or unfolds them."""
    before, after = call.inputs[0].shape, call.outputs[0].shape
    lead = 2 if form == "clips" else 1
    if None in before[lead:] or None in after[1:]:
        return None
    size = prod(before[lead:])  # type: ignore[arg-type]
    if call.is_layer and form == "clips":  # the layer leaves the batch alone
        return "clips" if after[1] == frames is not None and prod(after[2:]) == size else None  # type: ignore[arg-type]
    if prod(after[1:]) == size:  # type: ignore[arg-type]
        return "frames"
    unfolds = len(after) > 2 and after[1] == frames is not None and prod(after[2:]) == size  # type: ignore[arg-type]
    return "clips" if unfolds else None


def _is_per_frame(call: Call) -> bool:
    """Whether `call`, on clips `[B, T, …]`, does to each frame what it would do to the frame alone."""
    operation = call.operation
    rank = max(edge.rank for edge in call.inputs)
    if any(edge.rank != rank for edge in call.inputs):
        return False
    if isinstance(operation, _ALWAYS):
        return True
    if isinstance(operation, _LAST_AXIS):
        return all(axis in (-1, rank - 1) for axis in _axes(operation))
    if call.is_layer:
        return False
    elementwise = type(operation).__name__ in _ELEMENTWISE and _constants_broadcast(call)
    return elementwise or _reduces(call, from_axis=2) or _leaves_frames(call) or _along(call)


def _along(call: Call) -> bool:
    axis = getattr(call.operation, "axis", None)
    return type(call.operation).__name__ in ALONG and isinstance(axis, int) and axis % call.outputs[0].rank > 1


def _reduces(call: Call, *, from_axis: int) -> bool:
    axis = getattr(call.operation, "axis", None)
    if type(call.operation).__name__ not in REDUCTIONS or axis is None:
        return False
    rank = call.inputs[0].rank
    return all(part % rank >= from_axis for part in ([axis] if isinstance(axis, int) else axis))


def _leaves_frames(call: Call) -> bool:
    """`x[..., ::-1]` and the like: the index of batch and time is everything."""
    if type(call.operation).__name__ != "GetItem" or call.outputs[0].rank < 3:
        return False
    key = call.args[1] if len(call.args) > 1 else call.kwargs.get("key")
    parts = list(key) if isinstance(key, (tuple, list)) else [key]
    if parts and parts[0] is Ellipsis:
        return None not in parts and len(parts) <= call.inputs[0].rank - 1
    return len(parts) > 2 and all(part == slice(None) for part in parts[:2])


def _axes(layer: Any) -> tuple[int, ...]:
    axis = layer.axis
    return tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)


def _constants_broadcast(call: Call) -> bool:
    """Whether constants mean the same on a frame: one with a time axis would not."""
    rank = max(edge.rank for edge in call.inputs)
    flat = keras.tree.flatten((call.args, dict(call.kwargs)))
    shapes = [tuple(getattr(part, "shape", ())) for part in flat if not isinstance(part, Edge)]
    return all(len(shape) <= rank and set(shape[: max(0, len(shape) - rank + 2)]) <= {1} for shape in shapes)
