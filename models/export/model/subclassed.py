"""Models and layers whose graph only their code knows, taken apart: their `call` is run once on symbolic tensors.

What comes out is a functional model of the same layers, held against the original on synthetic clips.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from models.errors import ExportRefused
from models.export.model.opened import open_layer, openable, openable_within, opened, uniquely_named
from models.export.model.reason import reason
from models.export.model.trace import describe, functional
from models.synthetic import synthetic_clips
from service.bundle.manifest import Input

_LIMIT = 1e-5  # relative to the largest answer


def as_functional(model: keras.Model, *, input: Input, frames: int) -> keras.Model:  # noqa: A002 -- the manifest's own word
    """A functional model over `[B, T, H, W, C]` or `[B, H, W, C]` that answers as `model` does, or `model` itself where it is one.

    Subclassed models and the user's own layers are taken apart; an input without channels (grey) gets its axis. T stays free where
    the model's code allows it, else it is the T of the model's first call, or `frames`. Raises ExportRefused with the line that
    stands in the way.
    """
    frame = (input.height, input.width, input.channels)
    given = _shapes(model, frame, frames)
    if functional(model) is not None and (
        len(given) != 1 or not (openable_within(model) or _lacks_channels(given[0], frame))
    ):
        return model
    if len(given) != 1:
        raise ExportRefused(f"model {model.name!r} takes {len(given)} inputs; Marey takes one: clips or images")
    (shape,) = given
    lengths = [shape[1]] if functional(model) is not None else [None, shape[1] or frames]
    failed: ExportRefused | None = None
    for length in lengths if _is_clips(shape, frame) else [None]:
        try:
            return _verified(model, _rebuilt(model, shape, frame, length), shape, length or shape[1] or frames)
        except ExportRefused as error:
            failed = error
    assert failed is not None
    raise failed


def _shapes(model: keras.Model, frame: tuple[int, int, int], frames: int) -> list[tuple[int | None, ...]]:
    """The shapes of its inputs, batch first."""
    graph = functional(model)
    if graph is not None:
        return [tuple(tensor.shape) for tensor in graph.inputs]
    config: dict[str, Any] = model.get_build_config() or {}
    shape = config.get("input_shape")
    if shape is None:
        return [_accepted(model, frame, frames)]
    several = shape.values() if isinstance(shape, dict) else shape if isinstance(shape[0], (list, tuple)) else [shape]
    return [(None, *part[1:]) for part in several]


def _accepted(model: keras.Model, frame: tuple[int, int, int], frames: int) -> tuple[int | None, ...]:
    """The one of clips and images that a model, which does not say what it takes, can be called on."""
    found = [shape for shape in ((frames, *frame), frame) if model.built and _takes(model, shape)]
    if len(found) != 1:
        raise ExportRefused(
            f"model {model.name!r} ({type(model).__name__}) does not say what it takes, as one that was never called; "
            f"call it on one batch of clips [B, {frames}, {', '.join(map(str, frame))}] or images, load its weights, and save it again"
        )
    return (None, *found[0])


def _takes(model: keras.Model, shape: tuple[int, ...]) -> bool:
    try:
        model(np.zeros((1, *shape), np.float32), training=False)
    except Exception:  # noqa: BLE001 -- whatever the user's code raises
        return False
    return True


def _lacks_channels(shape: tuple[int | None, ...], frame: tuple[int, int, int]) -> bool:
    """`[B, H, W]` or `[B, T, H, W]` of grey frames."""
    known = tuple(shape[-2:])
    rank = len(shape)
    return frame[2] == 1 and known == frame[:2] and (rank == 3 or (rank == 4 and shape[-1] != 1))


def _is_clips(shape: tuple[int | None, ...], frame: tuple[int, int, int]) -> bool:
    return len(shape) == 5 or (len(shape) == 4 and _lacks_channels(shape, frame))


def _rebuilt(
    model: keras.Model, shape: tuple[int | None, ...], frame: tuple[int, int, int], length: int | None
) -> keras.Model:
    clips = keras.Input((length, *frame) if _is_clips(shape, frame) else frame, dtype="float32", name="frames")
    fed = ops.squeeze(clips, axis=-1) if _lacks_channels(shape, frame) else clips
    if functional(model) is not None:
        return opened(keras.Model(clips, model(fed), name=model.name))
    _tell_shapes(model)
    try:
        answers = open_layer(model, (fed,), {})
        twin = keras.Model(clips, uniquely_named(answers), name=model.name)
    except Exception as error:  # whatever the user's code raises
        raise ExportRefused(
            f"model {model.name!r} ({type(model).__name__}) cannot be taken apart{_line_of(error)}: {reason(error)}; "
            "use layers, keras.ops and -1 for the batch there, and no Python branches on values, or rebuild it as a functional "
            "keras.Model(inputs, outputs) with the same layers"
        ) from error
    return opened(twin)


def _tell_shapes(model: keras.Model) -> None:
    """Let TimeDistributed know what the user's layers give, who in eager mode need not say."""
    inner = (part.layer for part in model._flatten_layers() if isinstance(part, layers.TimeDistributed))  # noqa: SLF001
    for layer in inner:
        if type(layer).compute_output_shape is keras.Layer.compute_output_shape and openable(layer):
            layer.compute_output_shape = functools.partial(_output_shape, layer)


def _output_shape(layer: Any, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return tuple(open_layer(layer, (keras.Input(shape[1:]),), {}).shape)


def _line_of(error: BaseException) -> str:
    """Where in the user's code it happened."""
    ours = str(Path(__file__).parents[1])
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        parts = Path(frame.filename).parts
        if not {"keras", "tensorflow", "numpy"} & set(parts) and not frame.filename.startswith(ours):
            return f" ({Path(frame.filename).name}, line {frame.lineno}: {frame.line})"
    return ""


def _verified(model: keras.Model, twin: keras.Model, shape: tuple[int | None, ...], length: int) -> keras.Model:
    """`twin`, which answered as `model` did to synthetic clips of `length` frames; raises ExportRefused."""
    height, width, channels = twin.input_shape[-3:]
    single = len(twin.input_shape) == 4
    clips = synthetic_clips(
        count=2, frames=1 if single else length, height=height, width=width, channels=channels, seed=3
    )
    for scale in (1.0, 255.0):  # whichever its author fed
        fed = (clips[:, 0] if single else clips).astype(np.float32) / np.float32(scale)
        wanted = _arrays(model(fed[..., 0] if len(shape) == fed.ndim - 1 else fed, training=False))
        try:
            found = _arrays(twin(fed, training=False))
        except Exception as error:
            raise ExportRefused(
                f"{describe(model)}, taken apart, cannot be run ({reason(error)}); use sizes that are numbers, and -1 for the batch, in its call"
            ) from error
        scaled = max((float(np.abs(part).max()) for part in wanted), default=0.0)
        apart = max((float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True)), default=np.inf)
        if not apart <= _LIMIT * max(1.0, scaled):
            raise ExportRefused(
                f"{describe(model)}, taken apart, answers otherwise than it did by {apart:.2g}; its call depends on more than its input: "
                "rebuild it as a functional keras.Model(inputs, outputs) with the same layers"
            )
    return twin


def _arrays(answers: Any) -> Iterable[np.ndarray[Any, Any]]:
    return [np.asarray(part, np.float32) for part in keras.tree.flatten(answers)]
