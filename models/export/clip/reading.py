"""A Keras model read as a clip network: what it takes, what its outputs say, and the same model over bytes of any or a fixed T."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras
from keras import ops

from models.errors import ExportRefused
from models.export.model.masks import without_masks
from models.export.model.outputs import (
    Activation,
    Outputs,
    Steps,
    activation_of,
    answer_outputs,
    missing_activation,
    read_outputs,
)
from models.export.model.trace import Edge, Trace, describe, trace
from models.export.nodes.fold_time import FoldTime, UnfoldTime
from models.export.nodes.unroll import Unroller, needs_frames
from models.export.normalization import Normalization
from models.export.split.split import frames_input
from service.bundle.manifest import Input


@dataclass(frozen=True, slots=True)
class ClipReading:
    """`frames`: T where the model fixes it. `stepwise`: its layers that are written out step by step, and so need a fixed T.

    `added`: the activation that the model lacks. `notes`: what was left out and why, in sentences.
    """

    flat: Trace
    source: Literal["video", "image"]
    outputs: Outputs
    activation: Activation
    added: Activation | None
    frames: int | None
    stepwise: tuple[str, ...]
    notes: tuple[str, ...]

    def build(self, *, input: Input, normalization: Normalization, frames: int | None) -> keras.Model:  # noqa: A002
        """Clips as bytes in float32 `[B, T, H, W, C]` → a dict of outputs, T being `frames`; the weights are copies.

        Of an image model every frame is looked at by itself, and the answers are averaged.
        """
        clips = keras.Input((frames, input.height, input.width, input.channels), dtype="float32", name="clips")
        copies = Unroller()
        given = normalization.of(clips)
        if self.source == "image":
            given = FoldTime(name=copies.unique("frames_of_clips"))(given)
        values: dict[Edge, Any] = {self.flat.inputs[0]: given}
        copies.run(self.flat.between(self.flat.inputs, self.flat.outputs), values)
        tensors = [values[edge] for edge in self.flat.outputs]
        named = answer_outputs(tensors, self.outputs, added=self.added, cloner=copies)
        if self.source == "image":
            for name, rows in named.items():
                of_frames = UnfoldTime(frames, name=copies.unique(f"{name}_of_frames"))(rows, clips)
                named[name] = ops.mean(of_frames, axis=1)
        return keras.Model(clips, named, name="clip")


def read_clip_model(
    model: keras.Model,
    *,
    input: Input,  # noqa: A002 -- the manifest's own word
    activation: Activation | None = None,
    steps: Steps | None = None,
) -> ClipReading:
    """Raises ExportRefused where the model's input or outputs are not those of a clip network."""
    flat, notes = without_masks(trace(model))
    source = frames_input(flat, model, (input.height, input.width, input.channels))
    clips = source.rank == 5
    frames = source.shape[1] if clips else None
    outputs, left_out = _read_outputs(flat, frames=frames, clips=clips, steps=steps)
    answer = flat.outputs[outputs.probabilities]
    found = activation_of(flat, answer)
    added = missing_activation(activation, found, answer.shape[-1])
    stepwise = tuple(describe(call.operation) for call in flat.calls if needs_frames(call.operation)) if clips else ()
    return ClipReading(
        flat, "video" if clips else "image", outputs, added or found, added, frames, stepwise, (*notes, *left_out)
    )


def _read_outputs(
    flat: Trace, *, frames: int | None, clips: bool, steps: Steps | None
) -> tuple[Outputs, tuple[str, ...]]:
    """The outputs, whose steps may be as many as there are frames or another number: half of them, or the patches of a picture."""
    refused: ExportRefused | None = None
    found: list[Outputs] = []
    for length in _lengths(flat, frames=frames, clips=clips):
        try:
            outputs = read_outputs(flat, frames=length, steps=steps)
        except ExportRefused as error:
            refused = error
            continue
        if clips and length == frames:
            return outputs, ()
        found.append(outputs)
    if not found:
        assert refused is not None
        raise refused

    # An attention may have passed a softmax too, but seldom as its last step; of two that did, the first output is the answer.
    def unlikely(outputs: Outputs) -> tuple[bool, int]:
        return activation_of(flat, flat.outputs[outputs.probabilities]) == "none", outputs.probabilities

    outputs = min(found, key=unlikely)
    if outputs.attention is None:
        return outputs, ()
    shape = list(flat.outputs[outputs.attention].shape)
    note = f"the attention {shape} is left out: it does not weigh the frames of a clip"
    return replace(outputs, attention=None), (note,)


def _lengths(flat: Trace, *, frames: int | None, clips: bool) -> Iterator[int | None]:
    if clips:
        yield frames
    beside = len(flat.outputs) > 1  # then one of [B, P] may be an attention
    found = dict.fromkeys(edge.shape[1] for edge in flat.outputs if edge.rank > 2 or beside)
    yield from (length for length in found if not clips or length != frames)
    if not clips:
        yield 0  # no steps at all
