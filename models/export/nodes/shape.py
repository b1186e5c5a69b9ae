"""ONNX nodes of pooling over time, reshapes, slices and reductions."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from models.export.nodes.graph import Given, Graph, Value, only, refuse, writes

_REDUCTIONS = {"Mean": "ReduceMean", "Sum": "ReduceSum", "Max": "ReduceMax", "Min": "ReduceMin"}
_TO_END = int(np.iinfo(np.int32).max)


@writes(layers.GlobalAveragePooling1D)
def _average_over_time(graph: Graph, layer: Any, given: Given) -> Value:
    return _pool(graph, layer, given, "ReduceMean")


@writes(layers.GlobalMaxPooling1D)
def _max_over_time(graph: Graph, layer: Any, given: Given) -> Value:
    return _pool(graph, layer, given, "ReduceMax")


def _pool(graph: Graph, layer: Any, given: Given, kind: str) -> Value:
    only(given, "inputs", layer=layer)
    return reduced(
        graph, given["inputs"], kind, [1 if layer.data_format == "channels_last" else 2], keep=layer.keepdims
    )


@writes(*_REDUCTIONS)
def _reduction(graph: Graph, operation: Any, given: Given) -> Value:
    x, axis = given["x"], operation.axis
    axes = list(range(x.rank)) if axis is None else [axis] if isinstance(axis, int) else list(axis)
    if 0 in [part % x.rank for part in axes]:
        raise refuse(operation, f"axis = {axis}", "reduce time or features: clips of one batch must not meet")
    return reduced(graph, x, _REDUCTIONS[type(operation).__name__], axes, keep=operation.keepdims)


def reduced(graph: Graph, x: Value, kind: str, axes: list[int], *, keep: bool) -> Value:
    """`x` reduced over `axes` by an ONNX operator such as ReduceMean."""
    places = [axis % x.rank for axis in axes]
    shape = [1 if axis in places else size for axis, size in enumerate(x.shape) if keep or axis not in places]
    return graph.add(kind, [x, graph.integers(places, "axes")], shape, keepdims=int(keep))


@writes(layers.Flatten)
def _flatten(graph: Graph, _layer: Any, given: Given) -> Value:
    x = given["inputs"]
    return _reshape(graph, x, (int(np.prod(x.shape[1:])) if None not in x.shape[1:] else None,))


@writes(layers.Reshape)
def _reshape_layer(graph: Graph, layer: Any, given: Given) -> Value:
    x, target = given["inputs"], tuple(layer.target_shape)
    known = None not in x.shape[1:]
    return _reshape(
        graph,
        x,
        tuple(_missing(x, target) if known and size == -1 else None if size == -1 else size for size in target),
    )


@writes("Reshape")
def _reshape_operation(graph: Graph, operation: Any, given: Given) -> Value:
    x, target = given["x"], tuple(operation.newshape)
    if target[0] not in (-1, None) or list(target[1:]).count(-1):
        raise refuse(
            operation,
            f"newshape = {target}",
            "keep the batch first, as -1, and give the other sizes; or use the Reshape layer",
        )
    return _reshape(graph, x, target[1:])


def _missing(x: Value, target: tuple[int, ...]) -> int:
    total = int(np.prod([size for size in x.shape[1:] if size is not None]))
    return total // int(np.prod([size for size in target if size != -1]))


def _reshape(graph: Graph, x: Value, sizes: tuple[int | None, ...]) -> Value:
    """The batch is kept; at most one of `sizes` is None."""
    target = graph.integers([0, *(-1 if size is None else size for size in sizes)], "shape")
    return graph.add("Reshape", [x, target], (None, *sizes))


@writes(layers.Permute)
def _permute(graph: Graph, layer: Any, given: Given) -> Value:
    x, order = given["inputs"], [0, *layer.dims]
    return graph.add("Transpose", [x], [x.shape[axis] for axis in order], perm=order)


@writes("Transpose")
def _transpose(graph: Graph, operation: Any, given: Given) -> Value:
    x, order = given["x"], list(operation.axes or ())
    if not order or order[0] != 0:
        raise refuse(operation, f"axes = {operation.axes}", "keep the batch first")
    return graph.add("Transpose", [x], [x.shape[axis] for axis in order], perm=order)


@writes(layers.RepeatVector)
def _repeat(graph: Graph, layer: Any, given: Given) -> Value:
    x, count = given["inputs"], int(layer.n)
    row = graph.add("Unsqueeze", [x, graph.integers([1], "axes")], (None, 1, x.shape[1]))
    return graph.add("Expand", [row, graph.integers([1, count, 1], "shape")], (None, count, x.shape[1]))


@writes("ExpandDims")
def _expand_dims(graph: Graph, operation: Any, given: Given) -> Value:
    x = given["x"]
    axis = (operation.axis if isinstance(operation.axis, int) else operation.axis[0]) % (x.rank + 1)
    return graph.add("Unsqueeze", [x, graph.integers([axis], "axes")], (*x.shape[:axis], 1, *x.shape[axis:]))


@writes("Squeeze")
def _squeeze(graph: Graph, operation: Any, given: Given) -> Value:
    x, axis = given["x"], operation.axis
    if axis is None:
        raise refuse(operation, "axis = None", "name the axis: a batch of one would lose its own")
    places = [part % x.rank for part in ([axis] if isinstance(axis, int) else axis)]
    return graph.add(
        "Squeeze",
        [x, graph.integers(places, "axes")],
        [size for place, size in enumerate(x.shape) if place not in places],
    )


@writes("GetItem")
def _get_item(graph: Graph, operation: Any, given: Given) -> Value:
    """`x[:, -1]`, `x[:, 2:]`, `x[:, None]` and the like: whole numbers, slices and new axes."""
    x: Value = given["x"]
    key = given["key"]
    parts = list(key) if isinstance(key, (tuple, list)) else [key]
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        named = sum(part is not None for part in parts) - 1
        parts[place : place + 1] = [slice(None)] * (x.rank - named)
    parts = [int(part) if isinstance(part, np.integer) else part for part in parts]
    y = _index(graph, operation, x, [part for part in parts if part is not None])
    left = [part for part in parts if not isinstance(part, int)]
    fresh = [place for place, part in enumerate(left) if part is None]  # as in x[:, None]
    if not fresh:
        return y
    shape = list(y.shape)
    for place in fresh:
        shape.insert(place, 1)
    return graph.add("Unsqueeze", [y, graph.integers(fresh, "axes")], shape)


def _index(graph: Graph, operation: Any, x: Value, parts: list[Any]) -> Value:
    """`x` at whole numbers and slices, one for each axis from the first on."""
    drop: list[int] = []
    for axis, part in enumerate(parts):
        if isinstance(part, int):
            end = _TO_END if part == -1 else part + 1
            x, drop = _slice(graph, x, axis, start=part, end=end, step=1), [*drop, axis]
        elif not isinstance(part, slice):
            raise refuse(operation, f"index {part!r}", "use whole numbers and slices")
        elif part != slice(None):
            step = part.step or 1
            if step < 0 or (axis == 0):
                raise refuse(operation, f"index {part!r} of axis {axis}", "step forward, and leave the batch alone")
            x = _slice(
                graph, x, axis, start=part.start or 0, end=_TO_END if part.stop is None else part.stop, step=step
            )
    if 0 in drop:
        raise refuse(operation, f"index {parts!r}", "leave the batch alone")
    if not drop:
        return x
    return graph.add(
        "Squeeze", [x, graph.integers(drop, "axes")], [size for place, size in enumerate(x.shape) if place not in drop]
    )


def _slice(graph: Graph, x: Value, axis: int, *, start: int, end: int, step: int) -> Value:
    size = x.shape[axis]
    length = None if size is None else len(range(*slice(start, end, step).indices(size)))
    if end != _TO_END and start >= 0 and end >= start and size is None and step == 1 and end - start == 1:
        length = 1
    bounds = [
        graph.integers([part], name)
        for part, name in ((start, "starts"), (end, "ends"), (axis, "axes"), (step, "steps"))
    ]
    return graph.add("Slice", [x, *bounds], (*x.shape[:axis], length, *x.shape[axis + 1 :]))
