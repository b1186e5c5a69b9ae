"""Time folded into the batch and out again, as layers: what TimeDistributed does, without its loop."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from models.errors import ExportRefused
from models.export.nodes.graph import Given, Graph, Value, writes

_PACKAGE = "marey"


@keras.saving.register_keras_serializable(_PACKAGE)
class FoldTime(layers.Layer):  # type: ignore[misc]  # Keras ships no types
    """`[B, T, …]` → `[B·T, …]`."""

    def call(self, inputs: Any) -> Any:
        return ops.reshape(inputs, (-1, *inputs.shape[2:]))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (None, *input_shape[2:])


@keras.saving.register_keras_serializable(_PACKAGE)
class UnfoldTime(layers.Layer):  # type: ignore[misc]
    """`[B·T, …]` → `[B, T, …]`; `frames` is T, or None where it is as long as `clips` `[B, T, …]`."""

    def __init__(self, frames: int | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.frames = frames

    def call(self, inputs: Any, clips: Any) -> Any:
        time = ops.shape(clips)[1] if self.frames is None else self.frames
        return ops.reshape(inputs, (-1, time, *inputs.shape[1:]))

    def compute_output_shape(self, inputs_shape: tuple[int | None, ...], clips_shape: Any) -> tuple[int | None, ...]:
        return (None, self.frames or clips_shape[1], *inputs_shape[1:])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "frames": self.frames}


def foldable(tensor: Any, *, layer: str) -> None:
    """Raises ExportRefused where a frame of `tensor` `[B, T, …]` has no fixed shape."""
    if None in tensor.shape[2:]:
        raise ExportRefused(
            f"{layer} works on frames of {list(tensor.shape[2:])}; give the model's input a fixed height and width"
        )


@writes(FoldTime)
def _fold(graph: Graph, _layer: Any, given: Given) -> Value:
    x: Value = given["inputs"]
    rest = [size or 0 for size in x.shape[2:]]
    return graph.add("Reshape", [x, graph.integers([-1, *rest], "shape")], (None, *rest))


@writes(UnfoldTime)
def _unfold(graph: Graph, layer: Any, given: Given) -> Value:
    x, clips = given["inputs"], given["clips"]
    rest = [size or 0 for size in x.shape[1:]]
    if layer.frames is not None:
        return graph.add(
            "Reshape", [x, graph.integers([-1, layer.frames, *rest], "shape")], (None, layer.frames, *rest)
        )
    lead = graph.add("Shape", [clips], (2,), start=0, end=2)
    shape = graph.add("Concat", [lead, graph.integers(rest, "frame")], (2 + len(rest),), axis=0)
    return graph.add("Reshape", [x, shape], (None, None, *rest))
