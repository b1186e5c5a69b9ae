"""What the user's own model says to clips, fed as its author fed it: the truth that every export is held against."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from models.export.model.outputs import Activation, Outputs
from models.export.model.trace import functional

_CLIPS = 5  # the rank of clips [B, T, H, W, C]
_PIXELS = 16 * 224 * 224  # at a time: a ResNet50 needs half a gigabyte for these


def own_answers(
    model: keras.Model,
    fed: NDArray[np.float32],
    *,
    source: Literal["video", "image"],
    outputs: Outputs,
    added: Activation | None,
) -> dict[str, NDArray[np.float32]]:
    """The answers of `model` to `fed` `[B, T, H, W, C]` by the names of the exported outputs.

    An image model sees every frame by itself, and its answers are averaged. `added`: the activation that the model lacks.
    """
    batch, length = fed.shape[:2]
    if source == "video":
        return _named(_run(model, fed), outputs, added)
    rows = _named(_run(model, fed.reshape(-1, *fed.shape[2:])), outputs, added)
    return {name: array.reshape(batch, length, *array.shape[1:]).mean(axis=1) for name, array in rows.items()}


def _run(model: keras.Model, fed: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    at_a_time = max(1, _PIXELS // math.prod(fed.shape[1:-1]))
    parts = [_call(model, fed[start : start + at_a_time]) for start in range(0, len(fed), at_a_time)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _call(model: keras.Model, fed: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    graph: Any = functional(model) or model
    present = np.ones(fed.shape[:2], bool)  # a mask input: every frame counts
    given = [present if tensor.dtype == "bool" else fed for tensor in graph.inputs]
    with warnings.catch_warnings():
        # Attention over the one frame of an image: Keras takes it for a mistake.
        warnings.filterwarnings("ignore", message=".*You are using a softmax over axis", category=UserWarning)
        answers = model(keras.tree.pack_sequence_as(graph.input, given), training=False)
    return [np.asarray(part, np.float32) for part in keras.tree.flatten(answers)]


def _named(
    arrays: list[NDArray[np.float32]], outputs: Outputs, added: Activation | None
) -> dict[str, NDArray[np.float32]]:
    rows = _finish(arrays[outputs.probabilities], added)
    named = {"probabilities": rows}
    if outputs.steps:
        named = {"probabilities": rows.mean(axis=1) if outputs.steps == "mean" else rows[:, -1], "positions": rows}
    elif outputs.positions is not None:
        named["positions"] = _finish(arrays[outputs.positions], added)
    if outputs.attention is not None:
        weights = arrays[outputs.attention]
        length = weights.shape[1] if weights.ndim == 3 and weights.shape[2] == 1 else weights.shape[-1]
        by_query = weights.reshape(len(weights), -1, length)
        named["attention"] = by_query.mean(axis=1)
    return named


def _finish(rows: NDArray[np.float32], added: Activation | None) -> NDArray[np.float32]:
    """What an export does beyond the model: an activation that was asked for, and two classes in place of one sigmoid."""
    if added not in (None, "none"):
        rows = np.asarray(getattr(keras.activations, added)(keras.ops.convert_to_tensor(rows)))
    return np.concatenate([1 - rows, rows], axis=-1) if rows.shape[-1] == 1 else rows
