"""Copies of what a model does to clips that do the same to single frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import keras
from keras import layers, ops

from models.export.model.clone import Cloner
from models.export.model.per_frame import ALONG, REDUCTIONS, Form, frame_settings, is_reshape
from models.export.model.trace import Call, Edge, replay


class FrameCloner(Cloner):
    """Frames `[N, …]` in place of clips `[B, T, …]`: a TimeDistributed gives way to the layer inside it, an axis moves up by one.

    `forms`: how frames stand in the tensors of the model; empty for a model of single images.
    """

    def __init__(self, forms: Mapping[Edge, Form]) -> None:
        super().__init__()
        self._forms = forms
        self._on_clips = False

    def run(self, calls: Iterable[Call], values: dict[Edge, Any]) -> None:
        replay(calls, values, self._one)

    def apply(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(operation, layers.TimeDistributed):
            kwargs = {name: value for name, value in kwargs.items() if name != "mask"}
            if self._on_clips:
                return self._aside(operation.layer, args, kwargs)
            return self._over_parts(operation, args[0] if args else kwargs["inputs"])
        return super().apply(operation, args, kwargs)

    def copy(self, layer: Any, **changes: Any) -> Any:
        return super().copy(layer, **{**(frame_settings(layer) if self._on_clips else {}), **changes})

    def _one(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        form = self._forms.get(call.inputs[0]) if call.inputs else None
        if is_reshape(call.operation) and form is not None:
            x = keras.tree.flatten((args, kwargs))[0]
            lead = 2 if self._forms[call.outputs[0]] == "clips" else 1
            return layers.Reshape(call.outputs[0].shape[lead:], name=self.unique(call.operation.name))(x)
        if form != "clips":
            return self.apply(call.operation, args, kwargs)
        kind = type(call.operation).__name__
        if kind in REDUCTIONS and not call.is_layer:
            rank, axis = call.inputs[0].rank, call.operation.axis
            axes = [part % rank - 1 for part in ([axis] if isinstance(axis, int) else axis)]
            return REDUCTIONS[kind](keras.tree.flatten((args, kwargs))[0], axis=axes, keepdims=call.operation.keepdims)
        if kind in ALONG and not call.is_layer:
            axis = call.operation.axis % call.outputs[0].rank - 1
            return ALONG[kind](args[0] if args else next(iter(kwargs.values())), axis=axis)
        if kind == "GetItem" and not call.is_layer:
            x, key = args if len(args) > 1 else (args[0], kwargs["key"])
            key = key if isinstance(key, tuple) else (key,)
            return x[key if key[0] is Ellipsis else key[1:]]
        if not call.is_layer:
            args, kwargs = keras.tree.map_structure(partial(_without_batch, rank=call.inputs[0].rank), (args, kwargs))
        self._on_clips = True
        try:
            return self.apply(call.operation, args, kwargs)
        finally:
            self._on_clips = False

    def _aside(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a TimeDistributed wraps already works on frames."""
        self._on_clips = False
        try:
            return self.apply(layer, args, kwargs)
        finally:
            self._on_clips = True

    def _over_parts(self, wrapper: Any, x: Any) -> Any:
        """A TimeDistributed inside a frame, over parts of it `[N, P, …]`: Keras would make a loop of it, so the parts join the batch."""
        y = self.apply(wrapper.layer, (ops.reshape(x, (-1, *x.shape[2:])),), {})
        return ops.reshape(y, (-1, x.shape[1], *y.shape[1:]))


def _without_batch(part: Any, *, rank: int) -> Any:
    """A constant of as many axes as clips have, without the first, which is 1: that of the time, 1 as well, is then that of the frames."""
    constant = hasattr(part, "shape") and not isinstance(part, keras.KerasTensor)
    return part[0] if constant and len(part.shape) == rank else part
