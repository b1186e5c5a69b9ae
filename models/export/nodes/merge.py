"""ONNX nodes of layers and operations that join tensors: sums, products, means, concatenation, dot products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from keras import layers

from models.errors import ExportRefused
from models.export.model.trace import describe
from models.export.nodes.graph import Given, Graph, Value, refuse, writes

_LAYER_NODES = {
    layers.Add: "Add",
    layers.Multiply: "Mul",
    layers.Maximum: "Max",
    layers.Minimum: "Min",
    layers.Subtract: "Sub",
    layers.Average: "Add",
}
_OPERATION_NODES = {
    "Add": "Add",
    "Subtract": "Sub",
    "Multiply": "Mul",
    "Divide": "Div",
    "TrueDivide": "Div",
    "Maximum": "Max",
    "Minimum": "Min",
    "Power": "Pow",
}
_UNARY = {
    "Negative": "Neg",
    "Abs": "Abs",
    "Absolute": "Abs",
    "Sqrt": "Sqrt",
    "Log": "Log",
    "Sin": "Sin",
    "Cos": "Cos",
    "Erf": "Erf",
    "Sign": "Sign",
    "Reciprocal": "Reciprocal",
    "Floor": "Floor",
}


def broadcast(*shapes: Sequence[int | None]) -> tuple[int | None, ...]:
    """The shape that `shapes` broadcast to; None stands for any size, which wins over 1."""
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(
        next((size for size in sizes if size not in (1, None)), None if None in sizes else 1)
        for sizes in zip(*padded, strict=True)
    )


@writes(*_LAYER_NODES)
def _merge_layer(graph: Graph, layer: Any, given: Given) -> Value:
    parts: list[Value] = list(given["inputs"])
    if len({part.rank for part in parts}) > 1:
        raise refuse(layer, f"inputs of ranks {[part.rank for part in parts]}", "reshape them to one rank first")
    result = parts[0]
    for part in parts[1:]:
        result = graph.add(_LAYER_NODES[type(layer)], [result, part], broadcast(result.shape, part.shape))
    if isinstance(layer, layers.Average):
        result = graph.add("Mul", [result, graph.constant(1.0 / len(parts), "share")], result.shape)
    return result


@writes(layers.Concatenate)
def _concatenate_layer(graph: Graph, layer: Any, given: Given) -> Value:
    return _concatenate(graph, list(given["inputs"]), int(layer.axis))


@writes("Concatenate")
def _concatenate_operation(graph: Graph, operation: Any, given: Given) -> Value:
    return _concatenate(graph, list(given["xs"]), int(operation.axis))


def _concatenate(graph: Graph, parts: list[Value], axis: int) -> Value:
    axis %= parts[0].rank
    sizes = [part.shape[axis] for part in parts]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    shape = (*parts[0].shape[:axis], total, *parts[0].shape[axis + 1 :])
    return graph.add("Concat", parts, shape, axis=axis)


@writes(*_OPERATION_NODES)
def _binary(graph: Graph, operation: Any, given: Given) -> Value:
    first, second = (operand(graph, operation, given[name]) for name in ("x1", "x2"))
    return graph.add(_OPERATION_NODES[type(operation).__name__], [first, second], broadcast(first.shape, second.shape))


def operand(graph: Graph, operation: Any, part: Any) -> Value:
    """A tensor as it is, a number or an array as a constant."""
    if isinstance(part, Value):
        return part
    array = np.asarray(part)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise ExportRefused(
            f"{describe(operation)} has an operand of type {type(part).__name__}; use a tensor, a number or an array of numbers"
        )
    return Value(graph.constant(array, "operand"), array.shape)


@writes(*_UNARY)
def _unary(graph: Graph, operation: Any, given: Given) -> Value:
    x = given["x"]
    return graph.add(_UNARY[type(operation).__name__], [x], x.shape)


@writes("Square")
def _square(graph: Graph, _operation: Any, given: Given) -> Value:
    x = given["x"]
    return graph.add("Mul", [x, x], x.shape)


@writes("Cast")
def _cast(graph: Graph, operation: Any, given: Given) -> Value:
    if operation.dtype not in ("float32", "float16", "bfloat16"):
        raise refuse(operation, f"dtype {operation.dtype}", "the head computes in float32")
    x = given["x"]
    if not isinstance(x, Value) or x.dtype == "float32":
        return operand(graph, operation, x)
    return graph.add("Cast", [x], x.shape, to=onnx.TensorProto.FLOAT)


@writes("Matmul")
def _matmul(graph: Graph, operation: Any, given: Given) -> Value:
    first, second = (operand(graph, operation, given[name]) for name in ("x1", "x2"))
    if min(first.rank, second.rank) < 2:
        raise refuse(operation, f"operands of ranks {first.rank} and {second.rank}", "use rank 2 or more")
    lead = broadcast(first.shape[:-2], second.shape[:-2]) if max(first.rank, second.rank) > 2 else ()
    return graph.add("MatMul", [first, second], (*lead, first.shape[-2], second.shape[-1]))


@writes(layers.Dot)
def _dot(graph: Graph, layer: Any, given: Given) -> Value:
    """The layer's axes are contracted and the batch is kept: `[B, T]·[B, T, D]` → `[B, D]`."""
    first, second = given["inputs"]
    axes = [layer.axes] * 2 if isinstance(layer.axes, int) else list(layer.axes)
    if layer.normalize or not {first.rank, second.rank} <= {2, 3}:
        raise refuse(
            layer,
            f"normalize = {layer.normalize} on ranks {first.rank} and {second.rank}",
            "use ranks 2 or 3 without normalize",
        )
    left = _contract(graph, first, axes[0] % first.rank, last=True)
    right = _contract(graph, second, axes[1] % second.rank, last=False)
    product = graph.add("MatMul", [left, right], (None, left.shape[1], right.shape[2]))
    drop = [axis for axis, part in ((1, first), (2, second)) if part.rank == 2]
    if not drop:
        return product
    kept = [size for axis, size in enumerate(product.shape) if axis not in drop]
    keep_one = len(kept) == 1  # [B, T]·[B, T] is [B, 1] in Keras
    axes_tensor = graph.integers(drop[:1] if keep_one else drop, "axes")
    return graph.add("Squeeze", [product, axes_tensor], (None, 1) if keep_one else kept)


def _contract(graph: Graph, x: Value, axis: int, *, last: bool) -> Value:
    """`x` as a stack of matrices whose last (or second) axis is `axis`; a vector becomes a matrix of one row (or column)."""
    if x.rank == 2:
        place, shape = (1, (None, 1, x.shape[1])) if last else (2, (None, x.shape[1], 1))
        return graph.add("Unsqueeze", [x, graph.integers([place], "axes")], shape)
    if (axis == 2) == last:
        return x
    return graph.add("Transpose", [x], (None, x.shape[2], x.shape[1]), perm=[0, 2, 1])
