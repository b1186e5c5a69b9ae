"""Which of a model's outputs say what: probabilities of the clip, weights of its frames, probabilities of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import keras
from keras import layers, ops

from models.errors import ExportRefused
from models.export.model.clone import Cloner
from models.export.model.trace import Edge, Trace

Activation = Literal["softmax", "sigmoid", "none"]
Steps = Literal["mean", "last"]
Shape = tuple[int | None, ...]
# What may follow the activation of a model without making its answers other than probabilities.
_KEEPS = (
    layers.Dropout, layers.Identity, layers.GlobalAveragePooling1D, layers.Average, layers.Flatten, layers.Reshape,
)  # fmt: skip
_KEEPS_OPERATIONS = {"Mean", "GetItem", "Squeeze", "Reshape", "ExpandDims", "Cast", "Identity"}
_LARGEST = ("GlobalMaxPooling1D", "Max")  # of sigmoids a probability still; of softmaxes none


@dataclass(frozen=True, slots=True)
class Outputs:
    """Places among the model's own outputs, None where it has no such. `steps`: what of its steps answers for the clip.

    `probabilities`: `[B, K]`, or with `steps` `[B, T, K]` and then the same place as `positions`. `attention`: `[B, T]`, `[B, T, 1]`,
    `[B, 1, T]`, or scores `[B, T, T]` and `[B, heads, T, T]`, which are averaged over heads and queries. `positions`: `[B, T, K]`.
    """

    probabilities: int
    attention: int | None = None
    positions: int | None = None
    steps: Steps | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which a bundle's graph has them."""
        beside = (("attention", self.attention), ("positions", self.positions))
        return ("probabilities", *(name for name, place in beside if place is not None))


def read_outputs(flat: Trace, *, frames: int | None, steps: Steps | None) -> Outputs:
    """Tell the outputs of a model of clips apart by their shapes, then by their names; raises ExportRefused. `frames`: T where fixed."""
    shapes = [edge.shape for edge in flat.outputs]
    listed = ", ".join(str(list(shape)) for shape in shapes)
    found = _tell_apart(flat, frames)
    if found is None:
        raise ExportRefused(
            f"the model gives {listed}; expected probabilities [B, K], or [B, T, K] for each step, and beside them at most one attention "
            "[B, T] and one answer for each step; build a keras.Model of those outputs only"
        )
    attention, positions = found.get("attention"), found.get("positions")
    if "probabilities" in found:
        if steps:
            raise ExportRefused(
                f"the model gives {listed}, one answer for the whole clip; --steps {steps} is for answers of each step, leave it out"
            )
        return Outputs(found["probabilities"], attention, positions)
    if steps is None:
        raise ExportRefused(
            f"the model gives {listed}, an answer for each step; say which answers for the clip with --steps mean or --steps last, "
            "or reduce the sequence in the model with GlobalAveragePooling1D or return_sequences=False"
        )
    assert positions is not None
    return Outputs(positions, attention, positions, steps)


def answer_outputs(
    tensors: Sequence[Any], outputs: Outputs, *, added: Activation | None, cloner: Cloner
) -> dict[str, Any]:
    """The symbolic tensors of a model's outputs as the named outputs of what is exported.

    `added` is applied to the answers; a single sigmoid output becomes the two classes [1 − p, p].
    """

    def answer(rows: Any) -> Any:
        if added not in (None, "none"):
            rows = layers.Activation(added, name=cloner.unique("added_activation"))(rows)
        if rows.shape[-1] == 1:
            rows = layers.Concatenate(name=cloner.unique("two_classes"))([1.0 - rows, rows])
        return rows

    rows = answer(tensors[outputs.probabilities])
    named: dict[str, Any] = {}
    if outputs.positions is not None:
        named["positions"] = rows if outputs.steps else answer(tensors[outputs.positions])
    if outputs.steps == "mean":
        rows = layers.GlobalAveragePooling1D(name=cloner.unique("average_over_steps"))(rows)
    elif outputs.steps == "last":
        rows = rows[:, -1]
    if outputs.attention is not None:
        named["attention"] = frame_weights(tensors[outputs.attention])
    return {**named, "probabilities": rows}


def frame_weights(weights: Any) -> Any:
    """Attention as the model gives it, `[B, T]`: scores of several heads and queries are averaged, which keeps their sum."""
    if len(weights.shape) == 4:
        weights = ops.mean(weights, axis=1)
    if len(weights.shape) == 2:
        return weights
    if weights.shape[1] == 1 or weights.shape[2] == 1:
        return layers.Flatten()(weights)
    return ops.mean(weights, axis=1)


def activation_of(flat: Trace, output: Edge) -> Activation:
    """The activation that `output` went through last, looking back over averages and layers that are idle."""
    makers = {edge: call for call in flat.calls for edge in call.outputs}
    largest = False
    while (call := makers.get(output)) is not None:
        layer = call.operation.layer if isinstance(call.operation, layers.TimeDistributed) else call.operation
        kind = type(layer).__name__
        largest = largest or kind in _LARGEST
        if not (isinstance(layer, _KEEPS) or kind in _LARGEST or (not call.is_layer and kind in _KEEPS_OPERATIONS)):
            named = getattr(getattr(layer, "activation", None), "__name__", "")
            if kind == "Sigmoid" or named == "sigmoid":
                return "sigmoid"
            return "softmax" if not largest and (kind == "Softmax" or named == "softmax") else "none"
        output = call.inputs[0]
    return "none"


def missing_activation(wanted: Activation | None, found: Activation, classes: int | None) -> Activation | None:
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


def output_names(model: keras.Model) -> tuple[str, ...]:
    """The names of the outputs of a model with a dict of them, in the order of `model.outputs`: Keras sorts a dict by its keys."""
    return tuple(sorted(model.output))


def _tell_apart(flat: Trace, frames: int | None) -> dict[str, int] | None:
    """The place of each role; of several readings one with probabilities of the clip comes first."""
    makers = {edge: call.operation.name for call in flat.calls for edge in call.outputs}
    readings: list[dict[str, int]] = []
    for roles in product(*(_may_be(flat, edge, makers.get(edge, ""), frames) for edge in flat.outputs)):
        places = {role: place for place, role in enumerate(roles)}
        if len(places) == len(roles) and _fits(places, flat):
            readings.append(places)
    return next((places for places in readings if "probabilities" in places), next(iter(readings), None))


def _fits(places: dict[str, int], flat: Trace) -> bool:
    if "probabilities" not in places:
        return "positions" in places
    classes = {flat.outputs[places[role]].shape[-1] for role in ("probabilities", "positions") if role in places}
    return len(classes) == 1


def _may_be(flat: Trace, edge: Edge, name: str, frames: int | None) -> list[str]:
    """What an output may be by its shape, the likeliest first."""
    sizes, attention = edge.shape[1:], "attention" in name.lower()
    over_time = sizes in ((frames,), (frames, 1), (1, frames), (frames, frames)) or (
        len(sizes) == 3 and sizes[1:] == (frames, frames)
    )
    likely = attention or len(sizes) != 1
    answer = ["probabilities"] if len(sizes) == 1 else ["positions"] if len(sizes) == 2 and sizes[0] == frames else []
    if not answer or sizes[-1] is None:
        answer = []
    if not over_time:
        return answer
    per_step = sizes == (frames, 1) and activation_of(flat, edge) == "sigmoid" and not attention
    return [*answer, "attention"] if per_step or not likely else ["attention", *answer]
