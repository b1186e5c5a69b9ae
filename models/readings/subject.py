"""What readings are tried on: a model that is asked with pixels as it was fed in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.export.model.outputs import Activation
from models.export.model.trace import functional
from models.readings.activations import Seen, seen_by_first_batchnorm
from models.readings.family import Family, family_of
from models.readings.said import scaling_in

Pixels = NDArray[np.float32]
Shape = tuple[int | None, ...]


class Subject(Protocol):
    """One model, in whichever form the user brought it."""

    @property
    def frames(self) -> int | None:
        """T where the model takes that many and no other, or single images (1 is not such a T)."""
        ...

    @property
    def frame_shape(self) -> tuple[int | None, int | None, int | None]:
        """Height, width, channels."""
        ...

    @property
    def scaled_in(self) -> str | None:
        """The layer inside that brings pixels to scale."""
        ...

    @property
    def family(self) -> Family | None: ...

    @property
    def customary(self) -> str | None:
        """The --preprocess that models of this kind mostly take; None where nothing is known."""
        ...

    @property
    def outputs(self) -> tuple[int | None, ...]:
        """The last dimension of each output."""
        ...

    def ask(self, fed: Pixels) -> list[NDArray[np.float32]]:
        """Every output for clips `[B, T, H, W, C]`; an image model's frames are averaged over T."""
        ...

    def look(self, fed: Pixels) -> Seen | None:
        """What the first BatchNormalization is given."""
        ...


@dataclass(frozen=True, slots=True)
class KerasSubject:
    """A functional Keras model of clips `[B, T, H, W, C]` or images `[N, H, W, C]`."""

    model: keras.Model

    @property
    def frames(self) -> int | None:
        return self._shape[1] if len(self._shape) == 5 else None

    @property
    def frame_shape(self) -> tuple[int | None, int | None, int | None]:
        height, width, channels = self._shape[-3:]
        return height, width, channels

    @property
    def scaled_in(self) -> str | None:
        return scaling_in(self.model)

    @property
    def family(self) -> Family | None:
        return family_of(self.model)

    @property
    def customary(self) -> str | None:
        return self.family.preprocess if self.family else None

    @property
    def outputs(self) -> tuple[int | None, ...]:
        shapes = self.model.output_shape
        listed = shapes if isinstance(shapes, list) else list(shapes.values()) if isinstance(shapes, dict) else [shapes]
        return tuple(shape[-1] for shape in listed)

    def ask(self, fed: Pixels) -> list[NDArray[np.float32]]:
        if len(self._shape) == 5:
            return self._call(fed)
        rows = self._call(fed.reshape(-1, *fed.shape[2:]))
        return [each.reshape(*fed.shape[:2], *each.shape[1:]).mean(axis=1) for each in rows]

    def look(self, fed: Pixels) -> Seen | None:
        return seen_by_first_batchnorm(self.model, fed if len(self._shape) == 5 else fed.reshape(-1, *fed.shape[2:]))

    @property
    def _shape(self) -> Shape:
        return pixels_shape(self.model)

    def _call(self, fed: Pixels) -> list[NDArray[np.float32]]:
        graph: Any = functional(self.model) or self.model
        present = np.ones(fed.shape[:2], bool)  # a mask input: every frame counts
        given = [present if len(tensor.shape) == 2 else fed for tensor in graph.inputs]
        answers = self.model(keras.tree.pack_sequence_as(graph.input, given), training=False)
        return [np.asarray(each, np.float32) for each in keras.tree.flatten(answers)]


def pixels_shape(model: keras.Model, *, gray: bool = False) -> Shape:
    """`[B, T, H, W, C]` or `[B, H, W, C]` as `model` takes clips or images; a mask beside them does not count. Raises ExportRefused.

    With `gray` a model may do without the axis of its one channel, which is added here.
    """
    graph = functional(model)
    built = (model.get_build_config() or {}).get("input_shape") if graph is None else None
    shapes = (
        [tuple(built)] if built else [tuple(tensor.shape) for tensor in (graph.inputs if graph is not None else ())]
    )
    if not shapes:
        raise ExportRefused(
            f"model {model.name!r} ({type(model).__name__}) does not say what it takes; call it once on clips before it is saved"
        )
    pixels = [shape for shape in shapes if len(shape) in (4, 5)]
    shape = pixels[0] if len(pixels) == 1 else shapes[0]
    if gray and len(shape) in (3, 4) and shape[-1] not in (1, 3):
        return (*shape, 1)
    if len(shape) == 3:
        raise ExportRefused(
            f"the model takes {list(shape)}, features and no pixels; give it with --head, and the CNN that makes them with --encoder"
        )
    if len(shape) not in (4, 5):
        raise ExportRefused(
            f"the model takes {list(shape)}; Marey takes one input: clips [B, T, H, W, C] or images [B, H, W, C]"
        )
    return shape


def check_labels(subject: Subject, labels: Sequence[str]) -> None:
    """Raise ExportRefused where no output tells as many classes apart as there are labels; a single one tells two."""
    known = [2 if size == 1 else size for size in subject.outputs if size is not None]
    if known and len(labels) not in known:
        raise ExportRefused(
            f"the model tells {known[0]} classes apart, {len(labels)} labels are given; give one per output, in their order"
        )


def probabilities(
    answers: Sequence[NDArray[np.float32]], labels: Sequence[str], activation: Activation | None
) -> NDArray[np.float32]:
    """`[B, K]` of the output that fits the labels, averaged over steps; scores become a softmax, as a table must show something."""
    rows = next((each for each in answers if each.shape[-1] in (len(labels), 1)), answers[0])
    rows = rows.mean(axis=1) if rows.ndim == 3 else rows
    if activation == "sigmoid" or (rows.shape[-1] == 1 and not _within(rows)):
        rows = (1 / (1 + np.exp(-rows))).astype(np.float32)
    elif activation == "softmax" or not _within(rows):
        grown = np.exp(rows - rows.max(axis=-1, keepdims=True))
        rows = grown / grown.sum(axis=-1, keepdims=True)
    return np.concatenate([1 - rows, rows], axis=-1) if rows.shape[-1] == 1 else rows


def _within(rows: NDArray[np.float32]) -> bool:
    return bool((rows >= 0).all() and (rows <= 1).all())
