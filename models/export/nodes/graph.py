"""Writing ONNX nodes from Keras layers: the graph being built, and the registry of which function writes which layer.

A new layer is one function: `@writes(MyLayer)` over `def my_layer(graph, layer, given): ...`, which adds nodes and returns a
`Value` or several. Layers are looked up by their exact class, since a subclass may compute something else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.errors import ExportRefused
from models.export.model.trace import describe, functional, replay, trace
from models.export.nodes.replacement import replacement

OPSET = 18
_FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph, float32 but for the results of comparisons; a dimension is None where it is dynamic."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def width(self) -> int:
        """The last dimension, which is known."""
        if self.shape[-1] is None:
            raise ExportRefused(
                f"tensor {self.name!r} has no fixed last dimension, {list(self.shape)}; give the model a fixed one"
            )
        return self.shape[-1]


Written = Value | tuple[Value, ...]
Given = dict[str, Any]
Writer = Callable[["Graph", Any, Given], Written]
_LAYERS: dict[type[Any], Writer] = {}
_OPERATIONS: dict[str, Writer] = {}


def writes(*kinds: type[Any] | str) -> Callable[[Writer], Writer]:
    """Register the writer of layer classes, or of `keras.ops` operations by their class name."""

    def register(writer: Writer) -> Writer:
        for kind in kinds:
            if isinstance(kind, str):
                _OPERATIONS[kind] = writer
            else:
                _LAYERS[kind] = writer
        return writer

    return register


@dataclass(slots=True)
class Graph:
    """Nodes and initializers so far; names are those of the layers, numbered where they repeat, so that every run gives the same."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    scope: str = ""
    _names: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, inputs: Sequence[Value | str], shape: Sequence[int | None], **attributes: Any) -> Value:
        """One node with one output of `shape`."""
        (name,) = self.node(kind, inputs, 1, **attributes)
        return Value(name, tuple(shape))

    def node(self, kind: str, inputs: Sequence[Value | str], outputs: int, **attributes: Any) -> list[str]:
        """One node with several outputs; returns their names. An empty name leaves an optional input out."""
        name = self.unique(f"{self.scope}/{kind}")
        made = [name if outputs == 1 else f"{name}:{index}" for index in range(outputs)]
        names = [part.name if isinstance(part, Value) else part for part in inputs]
        self.nodes.append(helper.make_node(kind, names, made, name=name, **attributes))
        return made

    def constant(self, array: NDArray[Any] | Sequence[float] | float, name: str) -> str:
        """A float32 initializer."""
        return self._initializer(np.asarray(array, np.float32), name)

    def integers(self, values: Sequence[int] | int, name: str) -> str:
        """An int64 initializer `[len(values)]`, or a single number: axes and shapes."""
        return self._initializer(np.asarray(values, np.int64), name)

    def booleans(self, array: NDArray[Any], name: str) -> str:
        """An initializer of truth values."""
        return self._initializer(np.asarray(array, np.bool_), name)

    def call(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
        """Write one layer or operation applied to values; raises ExportRefused where none of the writers knows it."""
        inner = functional(operation)
        if inner is not None:
            return self.model(
                operation, [part for part in keras.tree.flatten((args, kwargs)) if isinstance(part, Value)]
            )
        writer = _writer(operation)
        before, self.scope = self.scope, operation.name
        try:
            return writer(self, operation, _bind(operation, args, kwargs))
        finally:
            self.scope = before

    def model(self, model: Any, inputs: Sequence[Value]) -> Written:
        """Write a functional model; returns its outputs in order."""
        flat = trace(model)
        # A layer that is unknown is a better name for what is wrong than the operations that it brings along, as Masking does.
        for call in sorted(flat.calls, key=lambda call: not call.is_layer):
            _writer(call.operation)
        values: dict[Any, Any] = dict(zip(flat.inputs, inputs, strict=True))
        replay(flat.calls, values, lambda call, args, kwargs: self.call(call.operation, args, kwargs))
        outputs = tuple(values[edge] for edge in flat.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def unique(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"

    def _initializer(self, array: NDArray[Any], name: str) -> str:
        full = self.unique(f"{self.scope}/{name}")
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), full))
        return full


def only(given: Given, *allowed: str, layer: Any) -> None:
    """Refuse an argument of a call that its writer does not heed."""
    idle = ("training", "self")
    extra = [
        name
        for name, value in given.items()
        if name not in (*allowed, *idle) and value is not None and not (isinstance(value, bool) and not value)
    ]
    if extra:
        raise ExportRefused(
            f"{describe(layer)} is called with {', '.join(extra)}, which has no ONNX form here; rebuild the model without it"
        )


def refuse(layer: Any, setting: str, remedy: str) -> ExportRefused:
    """The error for a layer that is known with a setting that is not."""
    return ExportRefused(f"{describe(layer)} has {setting}, which cannot be written as ONNX nodes; {remedy}")


def _writer(operation: Any) -> Writer:
    """The writer of exactly this class of layer or operation; raises ExportRefused where there is none."""
    is_layer = isinstance(operation, keras.Layer)
    writer = _LAYERS.get(type(operation)) if is_layer else _OPERATIONS.get(type(operation).__name__)
    if writer is None and (instead := replacement(operation)):
        raise ExportRefused(f"{describe(operation)} cannot be written as ONNX nodes: {instead}")
    if writer is None:
        raise ExportRefused(
            f"{describe(operation)} cannot be written as ONNX nodes; replace it with one of {_supported(is_layer=is_layer)}, "
            "or register a writer for it (models/export/nodes/graph.py)"
        )
    return writer


def _bind(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    """The arguments of a call by their names in the layer's `call`."""
    bound = inspect.signature(operation.call).bind(*args, **kwargs)
    given = dict(bound.arguments)
    extra = given.pop("kwargs", {})
    return {**given, **extra}


def _supported(*, is_layer: bool) -> str:
    return ", ".join(sorted(kind.__name__ for kind in _LAYERS) if is_layer else sorted(_OPERATIONS))
