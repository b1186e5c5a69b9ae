"""A CNN and an RNN that were saved apart, as one model of clips."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from models.errors import ExportRefused
from models.export.model.trace import functional


def join_files(encoder: keras.Model, head: keras.Model) -> keras.Model:
    """Clips `[B, T, H, W, C]` → the outputs of `head`: `encoder` `[B, H, W, C]` → `[B, D]` on each frame, then `head` `[B, T, D]`.

    A further input of `head` that is boolean `[B, T]` is the mask of its padding: every frame counts there. The layers are those of
    the two models, not copies. Raises ExportRefused where the two do not fit.
    """
    image, *others = _inputs(encoder, "--encoder")
    if others or len(image.shape) != 4 or None in image.shape[1:]:
        raise ExportRefused(
            f"the encoder {encoder.name!r} takes {_shapes(_inputs(encoder, '--encoder'))}; expected single frames [B, H, W, C] of a fixed size: "
            "build it with keras.Input((height, width, channels)), or give the files the other way round"
        )
    features, *masks = sorted(_inputs(head, "--head"), key=_is_mask)
    if _is_mask(features) or len(features.shape) < 3 or not all(map(_is_mask, masks)):
        raise ExportRefused(
            f"the head {head.name!r} takes {_shapes(_inputs(head, '--head'))}; expected features [B, T, D], and beside them at most a "
            "boolean mask [B, T]"
        )
    graph = functional(encoder)
    assert graph is not None
    found = graph.outputs  # a Sequential that was loaded has them there alone
    if len(found) != 1:
        raise ExportRefused(
            f"the encoder {encoder.name!r} has several outputs; build a keras.Model of the features that the head reads"
        )
    given, wanted = found[0].shape[1:], features.shape[2:]
    fits = len(given) == len(wanted) and all(ours in (None, theirs) for ours, theirs in zip(wanted, given, strict=True))
    if not fits:
        raise ExportRefused(_misfit(encoder, head, given, wanted))
    clips = keras.Input((features.shape[1], *image.shape[1:]), name="clips")
    rows = layers.TimeDistributed(encoder, name="each_frame")(clips)
    return keras.Model(clips, _call(head, features, rows), name=f"{encoder.name}_{head.name}")


def _call(head: keras.Model, features: Any, rows: Any) -> Any:
    """`head` on `rows`, its masks all true, in the structure in which it wants them."""
    graph = functional(head)
    assert graph is not None
    present = ops.ones_like(rows[:, :, 0], dtype="bool") if len(graph.inputs) > 1 else None
    parts = [rows if tensor is features else present for tensor in graph.inputs]
    return head(keras.tree.pack_sequence_as(graph.input, parts))


def _misfit(encoder: keras.Model, head: keras.Model, given: tuple[Any, ...], wanted: tuple[Any, ...]) -> str:
    said = (
        f"the encoder {encoder.name!r} gives {list(given)} for a frame and the head {head.name!r} reads {list(wanted)}"
    )
    if len(given) > len(wanted):
        return f"{said}; end the encoder in GlobalAveragePooling2D (pooling='avg' of keras.applications), as when the head was trained"
    return f"{said}; give the encoder whose features the head was trained on, without its layer of classes (include_top=False)"


def _inputs(model: keras.Model, flag: str) -> list[Any]:
    graph = functional(model)
    if graph is None:
        raise ExportRefused(
            f"{flag}: model {model.name!r} ({type(model).__name__}) is subclassed or was never built; rebuild it as a functional keras.Model"
        )
    return list(graph.inputs)


def _is_mask(tensor: Any) -> bool:
    return bool(tensor.dtype == "bool" and len(tensor.shape) == 2)


def _shapes(tensors: list[Any]) -> str:
    return ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in tensors)
