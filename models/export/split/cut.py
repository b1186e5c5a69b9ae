"""Where a model can be cut: the edge between what looks at single frames and what follows them over time."""

from __future__ import annotations

from collections.abc import Mapping

from keras import layers

from models.errors import NotSplittable
from models.export.model.per_frame import Form
from models.export.model.trace import Edge, Trace, describe

# Features of more values than this come from a Flatten; a later, narrower edge then saves their way between the graphs.
_WIDE = 4096
# What may stand after the cut of an image network: layers that work on the last axis, with or without a time axis before it.
_ROW_LAYERS = (layers.Dense, layers.Activation, layers.Softmax, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.BatchNormalization,
               layers.Dropout, layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout, layers.Identity)  # fmt: skip


def cut_clips(flat: Trace, clips: Edge, forms: Mapping[Edge, Form]) -> Edge:
    """The edge `[B, T, D]` of a model of clips before which every frame stands alone; raises NotSplittable where there is none."""
    made = [
        edge
        for call in flat.calls
        for edge in call.outputs
        if forms.get(edge) == "clips" and edge.rank == 3 and edge.shape[-1] is not None
    ]
    found = [edge for edge in made if _passes_all(flat, edge, clips)]
    if not found:
        raise NotSplittable(_why_not_cut(flat, set(forms)))
    narrow = [edge for edge in found if (edge.shape[-1] or 0) <= _WIDE]
    return narrow[0] if narrow else min(found, key=lambda edge: edge.shape[-1] or 0)


def _why_not_cut(flat: Trace, per_frame: set[Edge]) -> str:
    for call in flat.between([], flat.outputs):
        if per_frame.intersection(call.inputs) and not per_frame.issuperset(call.outputs):
            shape = next(list(edge.shape) for edge in call.inputs if edge in per_frame)
            return (
                f"{describe(call.operation)} reads {shape} of several frames at once, so no encoder of single frames can be split off before it; "
                "wrap what belongs to one frame in TimeDistributed and reduce it to features [B, T, D] (GlobalAveragePooling2D, Flatten)"
            )
    return "the model has no features [B, T, D] between its frames and its outputs; reduce each frame with TimeDistributed(GlobalAveragePooling2D())"


def cut_image(flat: Trace, image: Edge) -> Edge:
    """The edge `[B, D]` of a model of single images after which only layers of the last axis follow, before its last Dense."""
    found: list[Edge] = []
    for call in flat.calls:
        for edge in call.outputs:
            tail = flat.between([edge], flat.outputs)
            rows = all(isinstance(after.operation, _ROW_LAYERS) for after in tail)
            if edge.rank == 2 and edge.shape[-1] is not None and rows and _passes_all(flat, edge, image):
                found.append(edge)
    if not found:
        raise NotSplittable(
            f"the image model ends in {list(flat.outputs[0].shape)} and not in one row of classes [B, K]; end it in GlobalAveragePooling2D and Dense"
        )
    before_dense = [
        edge
        for edge in found
        if any(isinstance(call.operation, layers.Dense) for call in flat.between([edge], flat.outputs))
    ]
    return before_dense[-1] if before_dense else found[0]


def _passes_all(flat: Trace, cut: Edge, source: Edge) -> bool:
    return all(source not in call.inputs for call in flat.between([cut], flat.outputs)) and source not in flat.outputs
