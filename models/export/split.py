"""Cut a Keras model in two: an encoder of single frames and a head over their features.

The cut is an edge `[B, T, D]` through which everything passes on its way from the clips to the outputs, and before which every
layer treats each frame by itself. A network for single images is cut before its last Dense; its head averages over the frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import keras
from keras import layers

from models.errors import ExportRefused
from models.export.clone import Cloner
from models.export.per_frame import frame_settings, is_per_frame
from models.export.trace import Call, Edge, Trace, describe, trace

Activation = Literal["softmax", "sigmoid", "none"]
# Features of more values than this come from a Flatten; a later, narrower edge then saves their way between the graphs.
_WIDE = 4096
# What may stand after the cut of an image network: layers that work on the last axis, with or without a time axis before it.
_ROW_LAYERS = (layers.Dense, layers.Activation, layers.Softmax, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.BatchNormalization,
               layers.Dropout, layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout, layers.Identity)  # fmt: skip

# What may follow the activation of a model without making its answers other than probabilities.
_KEEPS_ACTIVATION = (
    layers.Dropout,
    layers.Identity,
    layers.GlobalAveragePooling1D,
    layers.Average,
    layers.Flatten,
    layers.Reshape,
)


@dataclass(frozen=True, slots=True)
class Split:
    """Two Keras models in place of one, with weights of their own.

    `encoder`: frames float32 `[N, H, W, C]` → features `[N, D]`. `head`: features `[B, T, D]` → a dict of `probabilities` `[B, K]`
    and, where `attention` says so, `attention` `[B, T]`. `static_frames`: T where the head knows no other.
    """

    source: Literal["video", "image"]
    encoder: keras.Model
    head: keras.Model
    activation: Activation
    added: Activation | None  # the activation that the model lacked
    attention: bool
    static_frames: int | None
    probabilities_at: int  # which of the model's own outputs they are

    @property
    def feature_dim(self) -> int:
        return int(self.encoder.output_shape[-1])

    @property
    def classes(self) -> int:
        return int(self.head.outputs[-1].shape[-1])


def output_names(head: keras.Model) -> tuple[str, ...]:
    """The names of a head's outputs, in the order of `head.outputs`: Keras sorts a dict by its keys."""
    return ("attention", "probabilities") if len(head.outputs) == 2 else ("probabilities",)


def split_model(
    model: keras.Model, *, height: int, width: int, channels: int, activation: Activation | None = None
) -> Split:
    """Split `model`; raises ExportRefused with the layer that stands in the way. `activation` is added where the model lacks one.

    A single sigmoid output becomes the two classes [1 − p, p].
    """
    flat = trace(model)
    clips = _only_input(flat, model, (height, width, channels))
    per_frame = {clips} if clips.rank == 5 else set()
    for call in flat.calls:
        if per_frame.issuperset(call.inputs) and is_per_frame(call):
            per_frame.update(call.outputs)
    cut = _cut_clips(flat, clips, per_frame) if clips.rank == 5 else _cut_image(flat, clips)
    encoder = _encoder(flat.between([clips], [cut]), clips, cut, shape=(height, width, channels))
    tail = flat.between([cut], flat.outputs)
    place = _probabilities_at([edge.shape for edge in flat.outputs])
    found = _activation(flat, flat.outputs[place])
    added = _added(activation, found, flat.outputs[place].shape[-1])
    frames = clips.shape[1] if clips.rank == 5 else None
    head, static_frames = _head(tail, flat, cut, dim=int(encoder.output_shape[-1]), frames=frames, added=added)
    return Split(
        source="video" if clips.rank == 5 else "image",
        encoder=encoder,
        head=head,
        activation=added or found,
        added=added,
        attention="attention" in output_names(head),
        static_frames=static_frames,
        probabilities_at=place,
    )


def _only_input(flat: Trace, model: keras.Model, frame: tuple[int, int, int]) -> Edge:
    if len(flat.inputs) != 1 or flat.inputs[0].rank not in (4, 5):
        shapes = ", ".join(str(list(edge.shape)) for edge in flat.inputs)
        raise ExportRefused(
            f"model {model.name!r} takes {shapes}; expected one input, clips [B, T, H, W, C] or images [B, H, W, C]"
        )
    (clips,) = flat.inputs
    fits = all(size in (None, wanted) for size, wanted in zip(clips.shape[-3:], frame, strict=True))
    if not fits:
        raise ExportRefused(
            f"model {model.name!r} takes frames {list(clips.shape[-3:])}, asked for are {list(frame)}; give the height, width and colour that it was trained with"
        )
    return clips


def _passes_all(flat: Trace, cut: Edge, source: Edge) -> bool:
    return all(source not in call.inputs for call in flat.between([cut], flat.outputs)) and source not in flat.outputs


def _cut_clips(flat: Trace, clips: Edge, per_frame: set[Edge]) -> Edge:
    made = [
        edge
        for call in flat.calls
        for edge in call.outputs
        if edge in per_frame and edge.rank == 3 and edge.shape[-1] is not None
    ]
    found = [edge for edge in made if _passes_all(flat, edge, clips)]
    if not found:
        raise ExportRefused(_why_not_cut(flat, per_frame))
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


def _cut_image(flat: Trace, image: Edge) -> Edge:
    found: list[Edge] = []
    for call in flat.calls:
        for edge in call.outputs:
            tail = flat.between([edge], flat.outputs)
            rows = all(isinstance(after.operation, _ROW_LAYERS) for after in tail)
            if edge.rank == 2 and edge.shape[-1] is not None and rows and _passes_all(flat, edge, image):
                found.append(edge)
    if not found:
        raise ExportRefused(
            f"the image model ends in {list(flat.outputs[0].shape)} and not in one row of classes [B, K]; end it in GlobalAveragePooling2D and Dense"
        )
    before_dense = [
        edge
        for edge in found
        if any(isinstance(call.operation, layers.Dense) for call in flat.between([edge], flat.outputs))
    ]
    return before_dense[-1] if before_dense else found[0]


def _encoder(calls: Iterable[Call], clips: Edge, cut: Edge, *, shape: tuple[int, int, int]) -> keras.Model:
    frames = keras.Input(shape, dtype="float32", name="frames")
    values: dict[Edge, Any] = {clips: frames}
    _FrameCloner(clips=clips.rank == 5).run(calls, values)
    features = values[cut]
    if len(features.shape) != 2 or features.shape[-1] is None:
        raise ExportRefused(
            f"the encoder gives {list(features.shape)} for one frame, expected [N, D]; give the model a fixed height and width"
        )
    return keras.Model(frames, features, name="encoder")


class _FrameCloner(Cloner):
    """Copies that work on frames: a TimeDistributed gives way to the layer inside it."""

    def __init__(self, *, clips: bool) -> None:
        super().__init__()
        self._clips = clips

    def apply(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._clips and isinstance(operation, layers.TimeDistributed):
            return super().apply(
                operation.layer, args, {name: value for name, value in kwargs.items() if name != "mask"}
            )
        return super().apply(operation, args, kwargs)

    def copy(self, layer: Any, **changes: Any) -> Any:
        return super().copy(layer, **{**(frame_settings(layer) if self._clips else {}), **changes})


def _head(
    tail: tuple[Call, ...], flat: Trace, cut: Edge, *, dim: int, frames: int | None, added: Activation | None
) -> tuple[keras.Model, int | None]:
    """The head for any T; where its layers refuse that and the model has a fixed T, for this one."""
    try:
        return _build_head(tail, flat, cut, dim=dim, frames=None, added=added), None
    except (ValueError, TypeError, ExportRefused):
        if frames is None:
            raise
    return _build_head(tail, flat, cut, dim=dim, frames=frames, added=added), frames


def _build_head(
    tail: tuple[Call, ...], flat: Trace, cut: Edge, *, dim: int, frames: int | None, added: Activation | None
) -> keras.Model:
    features = keras.Input((frames, dim), dtype="float32", name="features")
    values: dict[Edge, Any] = {cut: features}
    cloner = Cloner()
    cloner.run(tail, values)
    outputs = _name_outputs([values[edge] for edge in flat.outputs], image=cut.rank == 2)
    rows = outputs["probabilities"]
    if added not in (None, "none"):
        rows = layers.Activation(added, name=cloner.unique("added_activation"))(rows)
    if cut.rank == 2:
        rows = layers.GlobalAveragePooling1D(name=cloner.unique("average_over_frames"))(rows)
    if rows.shape[-1] == 1:
        rows = layers.Concatenate(name=cloner.unique("two_classes"))([1.0 - rows, rows])
    return keras.Model(features, {**outputs, "probabilities": rows}, name="head")


def _name_outputs(tensors: list[Any], *, image: bool) -> dict[str, Any]:
    shapes = [tuple(tensor.shape) for tensor in tensors]
    place = _probabilities_at(shapes)
    wanted = 3 if image else 2
    if len(shapes) > (1 if image else 2) or len(shapes[place]) != wanted or shapes[place][-1] is None:
        listed = ", ".join(str(list(shape)) for shape in shapes)
        extra = (
            "; reduce a sequence with GlobalAveragePooling1D or return_sequences=False"
            if len(shapes[place]) > wanted
            else ""
        )
        raise ExportRefused(
            f"the model gives {listed}; expected probabilities [B, K] and at most one attention [B, T] beside them{extra}"
        )
    named = {"probabilities": tensors[place]}
    if len(tensors) == 2:
        weights = tensors[1 - place]
        named["attention"] = layers.Flatten(name="attention_weights")(weights) if len(weights.shape) == 3 else weights
    return named


def _probabilities_at(shapes: list[tuple[int | None, ...]]) -> int:
    """Of two outputs the one that is not `[B, T]` or `[B, T, 1]`; where both could be, the first."""
    if len(shapes) == 2 and len(shapes[1]) == 2 and shapes[1][1] is not None:
        first = shapes[0]
        if (len(first) == 2 and first[1] is None) or (len(first) == 3 and first[2] == 1):
            return 1
    return 0


def _activation(flat: Trace, output: Edge) -> Activation:
    """The activation that `output` went through last, looking back over averages and layers that are idle."""
    makers = {edge: call for call in flat.calls for edge in call.outputs}
    while (call := makers.get(output)) is not None:
        layer = call.operation.layer if isinstance(call.operation, layers.TimeDistributed) else call.operation
        if not isinstance(layer, _KEEPS_ACTIVATION):
            named = getattr(getattr(layer, "activation", None), "__name__", "")
            return {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(
                type(layer).__name__, named if named in ("softmax", "sigmoid") else "none"
            )  # type: ignore[return-value]
        output = call.inputs[0]
    return "none"


def _added(wanted: Activation | None, found: Activation, classes: int | None) -> Activation | None:
    """The activation to put at the end, None where the model has it; raises ExportRefused where it has another."""
    if wanted in (None, "none", found):
        return None
    if found != "none":
        raise ExportRefused(
            f"the model ends in {found} already, {wanted} cannot be added to it; leave --activation out"
        )
    if wanted == "softmax" and classes == 1:
        raise ExportRefused(
            "the model has one output, and a softmax of one value is always 1; give --activation sigmoid"
        )
    return wanted
