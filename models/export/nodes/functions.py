"""ONNX nodes of the operations of keras.ops that users' heads are written with: functions, comparisons, Einsum, stacks and tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from models.export.nodes.activation import activate, clip
from models.export.nodes.graph import Given, Graph, Value, Written, refuse, writes
from models.export.nodes.merge import broadcast, operand
from models.export.nodes.shape import reduced

_COMPARISONS = {
    "Greater": "Greater", "GreaterEqual": "GreaterOrEqual", "Less": "Less", "LessEqual": "LessOrEqual", "Equal": "Equal",
}  # fmt: skip


@writes("Rsqrt")
def _rsqrt(graph: Graph, _operation: Any, given: Given) -> Value:
    x = given["x"]
    return graph.add("Reciprocal", [graph.add("Sqrt", [x], x.shape)], x.shape)


@writes("Log1p", "Expm1")
def _near_one(graph: Graph, operation: Any, given: Given) -> Value:
    x, one = given["x"], graph.constant(1.0, "one")
    if type(operation).__name__ == "Log1p":
        return graph.add("Log", [graph.add("Add", [x, one], x.shape)], x.shape)
    return graph.add("Sub", [graph.add("Exp", [x], x.shape), one], x.shape)


@writes("Logsumexp")
def _logsumexp(graph: Graph, operation: Any, given: Given) -> Value:
    if operation.axis is None:
        raise refuse(operation, "axis = None", "name the axis: clips of one batch must not meet")
    axes = [operation.axis] if isinstance(operation.axis, int) else list(operation.axis)
    return reduced(graph, given["x"], "ReduceLogSumExp", axes, keep=operation.keepdims)


@writes("Clip")
def _clip(graph: Graph, operation: Any, given: Given) -> Value:
    return clip(graph, given["x"], operation.x_min, operation.x_max)


@writes("StopGradient")
def _stop_gradient(_graph: Graph, _operation: Any, given: Given) -> Value:
    value: Value = given["variable"]
    return value


@writes(*_COMPARISONS)
def _compare(graph: Graph, operation: Any, given: Given) -> Value:
    first, second = (operand(graph, operation, given[name]) for name in ("x1", "x2"))
    shape = broadcast(first.shape, second.shape)
    found = graph.add(_COMPARISONS[type(operation).__name__], [first, second], shape)
    return Value(found.name, found.shape, "bool")


@writes("Where")
def _where(graph: Graph, operation: Any, given: Given) -> Value:
    if given.get("x1") is None or given.get("x2") is None:
        raise refuse(operation, "one argument", "give both values")
    condition = given["condition"]
    if not isinstance(condition, Value):
        condition = Value(graph.booleans(np.asarray(condition), "condition"), np.asarray(condition).shape, "bool")
    first, second = (operand(graph, operation, given[name]) for name in ("x1", "x2"))
    return graph.add("Where", [condition, first, second], broadcast(condition.shape, first.shape, second.shape))


@writes("Stack")
def _stack(graph: Graph, operation: Any, given: Given) -> Value:
    parts = [operand(graph, operation, part) for part in given["x"]]
    axis = operation.axis % (parts[0].rank + 1)
    axes, shape = graph.integers([axis], "axes"), (*parts[0].shape[:axis], 1, *parts[0].shape[axis:])
    raised = [graph.add("Unsqueeze", [part, axes], shape) for part in parts]
    return graph.add("Concat", raised, (*shape[:axis], len(raised), *shape[axis + 1 :]), axis=axis)


@writes("Split")
def _split(graph: Graph, operation: Any, given: Given) -> Written:
    x: Value = given["x"]
    axis, size = operation.axis % x.rank, x.shape[operation.axis % x.rank]
    if axis == 0 or size is None:
        raise refuse(
            operation, f"axis = {operation.axis} of {list(x.shape)}", "split an axis of a fixed size, not the batch"
        )
    cuts = operation.indices_or_sections
    edges = [size // cuts * part for part in range(1, cuts)] if isinstance(cuts, int) else [int(cut) for cut in cuts]
    sizes = np.diff([0, *edges, size]).tolist()
    names = graph.node("Split", [x, graph.integers(sizes, "sizes")], len(sizes), axis=axis)
    return tuple(
        Value(name, (*x.shape[:axis], part, *x.shape[axis + 1 :])) for name, part in zip(names, sizes, strict=True)
    )


@writes("Unstack")
def _unstack(graph: Graph, operation: Any, given: Given) -> Written:
    x: Value = given["x"]
    axis, size = operation.axis % x.rank, x.shape[operation.axis % x.rank]
    if axis == 0 or size is None:
        raise refuse(
            operation, f"axis = {operation.axis} of {list(x.shape)}", "take an axis of a fixed size, not the batch"
        )
    names = graph.node("Split", [x], size, axis=axis, num_outputs=size) if size > 1 else [x.name]
    axes, shape = graph.integers([axis], "axes"), (*x.shape[:axis], *x.shape[axis + 1 :])
    return tuple(graph.add("Squeeze", [name, axes], shape) for name in names)


@writes("Tile")
def _tile(graph: Graph, operation: Any, given: Given) -> Value:
    x: Value = given["x"]
    repeats = [operation.repeats] if isinstance(operation.repeats, int) else [int(part) for part in operation.repeats]
    repeats = [1] * (x.rank - len(repeats)) + repeats
    if len(repeats) > x.rank or repeats[0] != 1:
        raise refuse(operation, f"repeats = {operation.repeats} on rank {x.rank}", "leave the batch and the rank alone")
    shape = [None if size is None else size * count for size, count in zip(x.shape, repeats, strict=True)]
    return graph.add("Tile", [x, graph.integers(repeats, "repeats")], shape)


@writes("Repeat")
def _repeat(graph: Graph, operation: Any, given: Given) -> Value:
    """Every entry of an axis several times, one after the other; of an axis of one entry, as a state for each frame."""
    x: Value = given["x"]
    axis, count = operation.axis, operation.repeats
    if not isinstance(axis, int) or not isinstance(count, int) or axis % x.rank == 0:
        raise refuse(
            operation, f"repeats = {count}, axis = {axis}", "repeat one axis, not the batch, a number of times"
        )
    axis %= x.rank
    apart = (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :])
    raised = graph.add("Unsqueeze", [x, graph.integers([axis + 1], "axes")], apart)
    wide = graph.add("Concat", [raised] * count, (*apart[: axis + 1], count, *apart[axis + 2 :]), axis=axis + 1)
    size = x.shape[axis]
    shape = (*x.shape[:axis], None if size is None else size * count, *x.shape[axis + 1 :])
    known = [0 if place < axis else -1 if place == axis else part for place, part in enumerate(shape)]
    if None in known:
        raise refuse(operation, f"axis = {axis} of {list(x.shape)}", "keep the axes behind it of a fixed size")
    return graph.add("Reshape", [wide, graph.integers([int(part or 0) for part in known], "shape")], shape)


@writes("BroadcastTo")
def _broadcast_to(graph: Graph, operation: Any, given: Given) -> Value:
    x = operand(graph, operation, given["x"])
    sizes = [1 if size in (None, -1) else int(size) for size in operation.shape]
    return graph.add("Expand", [x, graph.integers(sizes, "shape")], broadcast(x.shape, sizes))


@writes("Flip")
def _flip(graph: Graph, operation: Any, given: Given) -> Value:
    x: Value = given["x"]
    axes = [operation.axis] if isinstance(operation.axis, int) else list(operation.axis or [0])
    places = [axis % x.rank for axis in axes]
    if 0 in places:
        raise refuse(operation, f"axis = {operation.axis}", "leave the batch alone")
    count = len(places)
    bounds = ((([-1] * count), "starts"), ([int(np.iinfo(np.int32).min)] * count, "ends"), (places, "axes"), ([-1] * count, "steps"))  # fmt: skip
    return graph.add("Slice", [x, *(graph.integers(part, name) for part, name in bounds)], x.shape)


@writes("Swapaxes", "Moveaxis")
def _reorder(graph: Graph, operation: Any, given: Given) -> Value:
    x: Value = given["x"]
    order = list(np.arange(x.rank))
    if type(operation).__name__ == "Swapaxes":
        order[operation.axis1], order[operation.axis2] = order[operation.axis2], order[operation.axis1]
    else:
        moved = np.moveaxis(np.empty(range(x.rank)), operation.source, operation.destination)
        order = list(moved.shape)  # an axis as long as its own number
    if order[0] != 0:
        raise refuse(operation, "an order of axes that moves the batch", "keep the batch first")
    return graph.add("Transpose", [x], [x.shape[axis] for axis in order], perm=[int(axis) for axis in order])


@writes("Take")
def _take(graph: Graph, operation: Any, given: Given) -> Value:
    x, indices = given["x"], given["indices"]
    if isinstance(indices, Value) or operation.axis is None:
        raise refuse(operation, "indices that are computed, or no axis", "give fixed indices and the axis")
    x, places = operand(graph, operation, x), np.asarray(indices)
    axis = operation.axis % x.rank
    if axis == 0 and x.shape[0] is None:
        raise refuse(operation, f"axis = {operation.axis}", "leave the batch alone")
    chosen = graph.integers(places.reshape(-1).tolist(), "indices")
    shape = (*x.shape[:axis], places.size, *x.shape[axis + 1 :])
    taken = graph.add("Gather", [x, chosen], shape, axis=axis)
    if places.ndim == 0:
        return graph.add("Squeeze", [taken, graph.integers([axis], "axes")], (*x.shape[:axis], *x.shape[axis + 1 :]))
    if places.ndim > 1:
        raise refuse(operation, f"indices of rank {places.ndim}", "give a list of indices")
    return taken


@writes(layers.Embedding)
def _embedding(graph: Graph, layer: Any, given: Given) -> Value:
    """Vectors of fixed positions: a table that is looked up now."""
    places = given["inputs"]
    if isinstance(places, Value):
        raise refuse(
            layer, "positions that are computed from the clip", "embed ops.arange(T) of a fixed number of frames"
        )
    table = np.asarray(layer.embeddings)[np.asarray(places).astype(int)]
    return Value(graph.constant(table, "embeddings"), table.shape)


@writes("Einsum")
def _einsum(graph: Graph, operation: Any, given: Given) -> Value:
    parts = [operand(graph, operation, part) for part in given["operands"]]
    return einsum(graph, operation.subscripts, parts, operation=operation)


@writes(layers.EinsumDense)
def _einsum_dense(graph: Graph, layer: Any, given: Given) -> Value:
    kernel = np.asarray(layer.kernel)
    parts = [given["inputs"], Value(graph.constant(kernel, "kernel"), kernel.shape)]
    y = einsum(graph, layer.equation, parts, operation=layer)
    if layer.bias is not None:
        y = graph.add("Add", [y, graph.constant(np.asarray(layer.bias), "bias")], y.shape)
    return activate(graph, y, layer.activation, layer=layer)


def einsum(graph: Graph, subscripts: str, parts: list[Value], *, operation: Any) -> Value:
    """`subscripts` over `parts`, dots and all; raises ExportRefused where the batch would not stay first."""
    text = subscripts.replace(" ", "")
    names = text.split("->")[0].split(",")
    if "->" not in text or len(names) != len(parts):
        raise refuse(operation, f"equation {subscripts!r}", "give the output behind ->")
    target = text.split("->")[1]
    if "..." in text:
        free = [letter for letter in "pqrstuvw" if letter not in text]
        count = max(
            part.rank - len(name.replace("...", "")) for name, part in zip(names, parts, strict=True) if "..." in name
        )
        dots = [
            "".join(free[count - (part.rank - len(name.replace("...", ""))) : count])
            for name, part in zip(names, parts, strict=True)
        ]
        names = [name.replace("...", letters) for name, letters in zip(names, dots, strict=True)]
        target = target.replace("...", "".join(free[:count]))
    sizes: dict[str, int | None] = {}
    for name, part in zip(names, parts, strict=True):
        for letter, size in zip(name, part.shape, strict=True):
            sizes[letter] = size if sizes.get(letter) is None else sizes[letter]
    clips = {name[0] for name, part in zip(names, parts, strict=True) if part.shape and part.shape[0] is None}
    if len(clips) != 1 or not target.startswith(tuple(clips)):
        raise refuse(operation, f"equation {subscripts!r}", "keep the batch first in the output")
    equation = f"{','.join(names)}->{target}"
    return graph.add("Einsum", parts, [sizes[letter] for letter in target], equation=equation)
