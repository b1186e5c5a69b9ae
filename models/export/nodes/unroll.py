"""A model without what only a loop could run: TimeDistributed with time in the batch, cells of the user's own step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from models.errors import ExportRefused
from models.export.model.clone import Cloner
from models.export.model.trace import Edge, describe, trace
from models.export.nodes.fold_time import FoldTime, UnfoldTime, foldable

_CONVOLUTIONAL = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
# Cells that the node writers know as real nodes; any other is unrolled.
_WRITTEN_CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell, layers.StackedRNNCells)


class Unroller(Cloner):
    """Copies of calls in which nothing loops."""

    def __init__(self) -> None:
        super().__init__()
        # Of a tensor that was unfolded: what it was before, and the clips that it has its T from.
        self._folded: dict[int, tuple[Any, Any]] = {}
        self._kept: list[Any] = []  # so that no id is given twice

    def apply(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if type(operation) is layers.TimeDistributed:
            return self._each_frame(operation, args, kwargs)
        if isinstance(operation, layers.Bidirectional) and needs_frames(operation):
            return self._both_ways(operation, args, kwargs)
        return super().apply(operation, args, kwargs)

    def copy(self, layer: Any, **changes: Any) -> Any:
        return super().copy(layer, **{**({"unroll": True} if unrolls(layer) else {}), **changes})

    def _each_frame(self, wrapper: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _no_mask(wrapper, kwargs)
        (clips,) = args or (kwargs["inputs"],)
        foldable(clips, layer=describe(wrapper))
        if id(clips) in self._folded:
            frames, source = self._folded[id(clips)]
        else:
            frames, source = FoldTime(name=self.unique(f"{wrapper.name}_fold"))(clips), clips
        return keras.tree.map_structure(
            lambda rows: self._unfold(rows, source, wrapper), self.apply(wrapper.layer, (frames,), {})
        )

    def _unfold(self, rows: Any, clips: Any, wrapper: Any) -> Any:
        unfolded = UnfoldTime(clips.shape[1], name=self.unique(f"{wrapper.name}_unfold"))(rows, clips)
        self._folded[id(unfolded)] = (rows, clips)
        self._kept.append(unfolded)
        return unfolded

    def _both_ways(self, wrapper: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _no_mask(wrapper, kwargs)
        if wrapper.return_state or len(args) > 1 or kwargs.get("initial_state") is not None:
            raise ExportRefused(f"{describe(wrapper)} passes states on, which cannot be exported; use its outputs only")
        ahead, back = (self.apply(layer, args, {}) for layer in (wrapper.forward_layer, wrapper.backward_layer))
        if wrapper.return_sequences:
            back = back[:, ::-1]
        joins: dict[str | None, Callable[[], Any]] = {
            "concat": lambda: ops.concatenate([ahead, back], axis=-1),
            "sum": lambda: ahead + back,
            "ave": lambda: (ahead + back) / 2,
            "mul": lambda: ahead * back,
            None: lambda: (ahead, back),
        }
        return joins[wrapper.merge_mode]()


def unrolled(model: keras.Model) -> keras.Model:
    """The functional `model` of one input without loops, or itself where it has none; raises ExportRefused with the layer."""
    flat = trace(model)
    if not any(_changes(call.operation) for call in flat.calls):
        return model
    tensor = keras.Input(model.input_shape[1:], dtype="float32", name=model.inputs[0].name)
    values: dict[Edge, Any] = {flat.inputs[0]: tensor}
    Unroller().run(flat.calls, values)
    outputs = keras.tree.pack_sequence_as(model.output, [values[edge] for edge in flat.outputs])
    return keras.Model(tensor, outputs, name=model.name)


def needs_frames(layer: Any) -> bool:
    """Whether `layer` over clips can be exported for a fixed T only, since it is written out step by step."""
    inner = layer.forward_layer if isinstance(layer, layers.Bidirectional) else layer
    return isinstance(inner, _CONVOLUTIONAL) or unrolls(inner)


def unrolls(layer: Any) -> bool:
    """Whether `layer` is recurrent with a cell of the user's own, which Keras itself can write out step by step."""
    return (
        isinstance(layer, layers.RNN)
        and not isinstance(layer, _CONVOLUTIONAL)
        and type(layer.cell) not in _WRITTEN_CELLS
    )


def _changes(operation: Any) -> bool:
    return (
        type(operation) is layers.TimeDistributed
        or unrolls(operation)
        or (isinstance(operation, layers.Bidirectional) and needs_frames(operation))
    )


def _no_mask(layer: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("mask") is not None:
        raise ExportRefused(f"{describe(layer)} is called with a mask; rebuild the model without Masking")
