"""Cut a Keras model in two: an encoder of single frames and a head over their features.

The cut is an edge `[B, T, D]` through which everything passes on its way from the clips to the outputs, and before which every
layer treats each frame by itself. A network for single images is cut before its last Dense; its head averages over the frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from models.errors import ExportRefused, NotSplittable
from models.export.model.clone import Cloner
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
from models.export.model.per_frame import Form, per_frame_edges
from models.export.model.reason import reason
from models.export.model.trace import Call, Edge, Trace, trace
from models.export.nodes.recurrence import not_everywhere
from models.export.split.cut import cut_clips, cut_image
from models.export.split.frame_clone import FrameCloner
from models.export.split.reference import Reference

_FIX = "give the model a fixed number of frames, keras.Input((T, height, width, channels)), and clips will be brought to that"


@dataclass(frozen=True, slots=True)
class Split:
    """Two Keras models in place of one, with weights of their own.

    `encoder`: frames float32 `[N, H, W, C]` → features `[N, D]`. `head`: features `[B, T, D]` → a dict of `probabilities` `[B, K]`
    and, where `attention` and `positions` say so, `attention` `[B, T]` and the answer of each step `positions` `[B, T, K]`.
    `static_frames`: T where the model fixes it, or the head knows no other. `notes`: what of the model was left out and why, and what not every engine runs, in sentences.
    """

    source: Literal["video", "image"]
    encoder: keras.Model
    head: keras.Model
    activation: Activation
    added: Activation | None  # the activation that the model lacked
    outputs: Outputs  # which of the model's own they are
    static_frames: int | None
    notes: tuple[str, ...] = ()

    @property
    def attention(self) -> bool:
        return self.outputs.attention is not None

    @property
    def positions(self) -> bool:
        return self.outputs.positions is not None

    @property
    def feature_dim(self) -> int:
        return int(self.encoder.output_shape[-1])

    @property
    def classes(self) -> int:
        return int(self.head.output["probabilities"].shape[-1])


def split_model(
    model: keras.Model,
    *,
    height: int,
    width: int,
    channels: int,
    activation: Activation | None = None,
    steps: Steps | None = None,
    frames: int | None = None,
) -> Split:
    """Split `model`; raises ExportRefused with the layer that stands in the way, NotSplittable where a clip network may do.

    `activation` is added where the model lacks one; a single sigmoid output becomes the two classes [1 − p, p]. `steps`: what
    answers for the clip where the model answers `[B, T, K]`. `frames`: T to fix the head at where it does not take any number.
    """
    flat, notes = without_masks(trace(model))
    clips = frames_input(flat, model, (height, width, channels))
    forms = per_frame_edges(flat, clips) if clips.rank == 5 else {}
    cut = cut_clips(flat, clips, forms) if forms else cut_image(flat, clips)
    before = flat.between([clips], [cut])
    length = clips.shape[1] if clips.rank == 5 else None
    outputs = read_outputs(flat, frames=length, steps=steps) if clips.rank == 5 else _image_outputs(flat, steps)
    answer = flat.outputs[outputs.probabilities]
    found = activation_of(flat, answer)
    added = missing_activation(activation, found, answer.shape[-1])
    encoder = _encoder(before, clips, cut, forms, shape=(height, width, channels))
    tail = flat.between([cut], flat.outputs)
    dim = int(encoder.output_shape[-1])
    # A fixed T with a mask is a longest clip, to which others were padded; without one, it is what the model was trained on.
    lengths = (length,) if length is not None and not notes else (None, length or frames)
    head, static_frames = _head(tail, flat, cut, outputs, dim=dim, lengths=lengths, added=added)
    return Split(
        source="video" if clips.rank == 5 else "image",
        encoder=encoder,
        head=head,
        activation=added or found,
        added=added,
        outputs=outputs,
        static_frames=static_frames,
        notes=(*notes, *(note for call in tail if (note := not_everywhere(call.operation)) is not None)),
    )


def frames_input(flat: Trace, model: keras.Model, frame: tuple[int, int, int]) -> Edge:
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


def _image_outputs(flat: Trace, steps: Steps | None) -> Outputs:
    shapes = [edge.shape for edge in flat.outputs]
    if len(shapes) > 1 or len(shapes[0]) != 2 or shapes[0][-1] is None:
        listed = ", ".join(str(list(shape)) for shape in shapes)
        raise NotSplittable(
            f"the image model gives {listed}; expected probabilities [B, K] alone: build a keras.Model of that output"
        )
    if steps:
        raise ExportRefused(
            f"the model answers for single images; --steps {steps} is for answers of each step, leave it out"
        )
    return Outputs(0)


def _encoder(
    calls: Iterable[Call], clips: Edge, cut: Edge, forms: Mapping[Edge, Form], *, shape: tuple[int, int, int]
) -> keras.Model:
    frames = keras.Input(shape, dtype="float32", name="frames")
    values: dict[Edge, Any] = {clips: frames}
    FrameCloner(forms).run(calls, values)
    features = values[cut]
    if len(features.shape) != 2 or features.shape[-1] is None:
        raise ExportRefused(
            f"the encoder gives {list(features.shape)} for one frame, expected [N, D]; give the model a fixed height and width"
        )
    return keras.Model(frames, features, name="encoder")


def _head(
    tail: tuple[Call, ...],
    flat: Trace,
    cut: Edge,
    outputs: Outputs,
    *,
    dim: int,
    lengths: Sequence[int | None],
    added: Activation | None,
) -> tuple[keras.Model, int | None]:
    """The head for the first T of `lengths` that its layers take, None being any."""

    def build(length: int | None) -> keras.Model:
        features = keras.Input((length, dim), dtype="float32", name="features")
        values: dict[Edge, Any] = {cut: features}
        cloner = Cloner()
        cloner.run(tail, values)
        named = answer_outputs([values[edge] for edge in flat.outputs], outputs, added=added, cloner=cloner)
        if cut.rank == 2:
            average = layers.GlobalAveragePooling1D(name=cloner.unique("average_over_frames"))
            named["probabilities"] = average(named["probabilities"])
        return keras.Model(features, named, name="head")

    *free, usual = lengths
    for length in free:
        try:
            head = build(length)
            _try(head, dim=dim, lengths=(1, 2, 5) if usual is None else (1, 2, usual, usual + 1))
        except (ValueError, TypeError, ExportRefused):
            if usual is None:
                raise
        else:
            return head, length
    assert usual is not None
    head = build(usual)
    _try(head, dim=dim, lengths=(usual,))
    return head, usual


def _try(head: keras.Model, *, dim: int, lengths: Iterable[int]) -> None:
    """Run `head` at several lengths: what is built for one T, as a constant with a time axis, fails at others only when it is run."""
    for length in lengths:
        try:
            arrays = Reference(head, head).probabilities(np.zeros((1, length, dim), np.float32))
        except Exception as error:
            raise ExportRefused(
                f"the layers after the features do not take {length} frames ({reason(error)}); {_FIX}"
            ) from error
        wrong = [
            name
            for name, part in arrays.items()
            if not np.isfinite(part).all() or (name != "probabilities" and part.shape[1] != length)
        ]
        if wrong:
            raise ExportRefused(
                f"of {length} frames the layers after the features make {wrong[0]} {list(arrays[wrong[0]].shape)} that are not one for each "
                f"frame, or no numbers; {_FIX}"
            )
