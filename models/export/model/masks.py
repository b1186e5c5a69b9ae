"""Masks of padding are left out of a model: a clip's frames are never padded when it is served, so every frame counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

from models.errors import ExportRefused
from models.export.model.trace import Call, Edge, Trace, describe

# What turns features, or masks, into the mask of the frames that are not padding.
_MASK_MAKERS = {
    "NotEqual", "Any", "All", "LogicalAnd", "LogicalOr", "OnesLike", "ExpandDims", "Squeeze", "BroadcastTo", "Concatenate", "Reshape",
    "GetItem", "Cast",
}  # fmt: skip


def without_masks(flat: Trace) -> tuple[Trace, tuple[str, ...]]:
    """`flat` where every frame counts, and sentences that say what was left out; raises ExportRefused where a mask does more.

    Left out are Masking layers, masks made by comparing features with a value, inputs that are masks, and the arguments by which
    layers read them.
    """
    notes: list[str] = []
    masks = {edge for edge in flat.inputs if edge.dtype == "bool"}
    same: dict[Edge, Edge] = {}
    kept: list[Call] = []
    for call in flat.calls:
        name = type(call.operation).__name__
        inputs = call.inputs
        if isinstance(call.operation, layers.Masking):
            same[call.outputs[0]] = same.get(inputs[0], inputs[0])
            notes.append(f"{describe(call.operation)} of {call.operation.mask_value:g} is left out")
        elif not call.is_layer and name in _MASK_MAKERS and all(edge.dtype == "bool" for edge in call.outputs):
            masks.update(call.outputs)
        else:
            kept.append(_without(call, masks, same))
            if kept[-1].kwargs != call.kwargs and len(kept[-1].inputs) < len(inputs):
                notes.append(f"the mask that {describe(call.operation)} reads is left out")
    outputs = tuple(same.get(edge, edge) for edge in flat.outputs)
    inputs = tuple(edge for edge in flat.inputs if edge not in masks)
    if notes:
        notes.append("no frame is ever padding when a clip is served, so every frame counts")
    cleaned = Trace(inputs, outputs, tuple(kept))
    for call in cleaned.between(cleaned.inputs, outputs):
        for edge in call.inputs:
            if edge in masks:
                raise ExportRefused(
                    f"{describe(call.operation)} computes with a mask {list(edge.shape)}; clips are never padded when they are served: "
                    "build the model without it, and leave the masking to the layers"
                )
    return cleaned, tuple(notes)


def _without(call: Call, masks: set[Edge], same: Mapping[Edge, Edge]) -> Call:
    kwargs: dict[str, Any] = {
        name: None if _is_mask(name, value, masks) else value for name, value in call.kwargs.items()
    }
    args, kwargs = keras.tree.map_structure(
        lambda part: same.get(part, part) if isinstance(part, Edge) else part, (call.args, kwargs)
    )
    return Call(call.operation, args, kwargs, call.outputs)


def _is_mask(name: str, value: Any, masks: set[Edge]) -> bool:
    parts = [part for part in keras.tree.flatten(value) if isinstance(part, Edge)]
    return "mask" in name and bool(parts) and masks.issuperset(parts)
