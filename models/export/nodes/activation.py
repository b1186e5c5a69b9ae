"""ONNX nodes of activations, as functions and as layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers

from models.export.nodes.graph import Given, Graph, Value, only, refuse, writes
from models.files.keras2_functions import hard_sigmoid_of_keras_2

_HARD = {"alpha": 1.0 / 6.0, "beta": 0.5}  # hard_sigmoid of Keras 3: relu6(x + 3) / 6


def activate(graph: Graph, x: Value, function: Any, *, layer: Any) -> Value:
    """`function(x)`, an activation as a Keras layer holds it; raises ExportRefused for one of the user's own."""
    if function is None:
        return x
    if isinstance(function, layers.Layer):
        written = graph.call(function, (x,), {})
        return written if isinstance(written, Value) else written[0]
    name = getattr(function, "__name__", type(function).__name__)
    if not getattr(function, "__module__", "").startswith(("keras.", "models.")) or name not in _WRITERS:
        raise refuse(layer, f"activation {name!r}", f"use one of {', '.join(sorted(_WRITERS))}")
    return _WRITERS[name](graph, x)


def _one(kind: str, **attributes: Any) -> Callable[[Graph, Value], Value]:
    return lambda graph, x: graph.add(kind, [x], x.shape, **attributes)


def clip(graph: Graph, x: Value, low: float | None, high: float | None) -> Value:
    """`x` limited to `low` … `high`."""
    bounds = ["" if bound is None else graph.constant(bound, name) for name, bound in (("low", low), ("high", high))]
    return graph.add("Clip", [x, *bounds], x.shape)


def _times(graph: Graph, x: Value, gate: Value) -> Value:
    return graph.add("Mul", [x, gate], x.shape)


def _gelu(graph: Graph, x: Value) -> Value:
    """x·Φ(x), exact; the Gelu node is younger than opset 18."""
    scaled = graph.add("Mul", [x, graph.constant(0.5**0.5, "root_half")], x.shape)
    phi = graph.add("Add", [graph.add("Erf", [scaled], x.shape), graph.constant(1.0, "one")], x.shape)
    return _times(graph, graph.add("Mul", [x, graph.constant(0.5, "half")], x.shape), phi)


def _gelu_tanh(graph: Graph, x: Value) -> Value:
    """x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))), the approximate form."""
    cube = _times(graph, x, _times(graph, x, x))
    inner = graph.add("Add", [x, graph.add("Mul", [cube, graph.constant(0.044715, "cubic")], x.shape)], x.shape)
    bent = graph.add("Tanh", [graph.add("Mul", [inner, graph.constant((2 / np.pi) ** 0.5, "root")], x.shape)], x.shape)
    risen = graph.add("Add", [bent, graph.constant(1.0, "one")], x.shape)
    return _times(graph, graph.add("Mul", [x, graph.constant(0.5, "half")], x.shape), risen)


def _squareplus(graph: Graph, x: Value, b: float = 4.0) -> Value:
    root = graph.add("Sqrt", [graph.add("Add", [_times(graph, x, x), graph.constant(b, "b")], x.shape)], x.shape)
    return graph.add("Mul", [graph.add("Add", [x, root], x.shape), graph.constant(0.5, "half")], x.shape)


def _glu(graph: Graph, x: Value, axis: int = -1) -> Value:
    """The first half of an axis times the sigmoid of the second."""
    axis %= x.rank
    size = x.shape[axis]
    shape = (*x.shape[:axis], None if size is None else size // 2, *x.shape[axis + 1 :])
    first, second = (Value(name, shape) for name in graph.node("Split", [x], 2, axis=axis, num_outputs=2))
    return _times(graph, first, graph.add("Sigmoid", [second], shape))


def _log_sigmoid(graph: Graph, x: Value) -> Value:
    turned = graph.add("Softplus", [graph.add("Neg", [x], x.shape)], x.shape)
    return graph.add("Neg", [turned], x.shape)


_WRITERS: dict[str, Callable[[Graph, Value], Value]] = {
    "linear": lambda _graph, x: x,
    "relu": _one("Relu"),
    "relu6": lambda graph, x: clip(graph, x, 0.0, 6.0),
    "leaky_relu": _one("LeakyRelu", alpha=0.2),
    "sigmoid": _one("Sigmoid"),
    "tanh": _one("Tanh"),
    "softmax": _one("Softmax", axis=-1),
    "log_softmax": _one("LogSoftmax", axis=-1),
    "elu": _one("Elu", alpha=1.0),
    "selu": _one("Selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
    "softplus": _one("Softplus"),
    "softsign": _one("Softsign"),
    "exponential": _one("Exp"),
    "hard_sigmoid": _one("HardSigmoid", **_HARD),
    hard_sigmoid_of_keras_2.__name__: _one("HardSigmoid", alpha=0.2, beta=0.5),
    "hard_silu": lambda graph, x: _times(graph, x, _one("HardSigmoid", **_HARD)(graph, x)),
    "silu": lambda graph, x: _times(graph, x, _one("Sigmoid")(graph, x)),
    "mish": lambda graph, x: _times(graph, x, _one("Tanh")(graph, _one("Softplus")(graph, x))),
    "gelu": _gelu,
    "celu": _one("Celu", alpha=1.0),
    "hard_tanh": lambda graph, x: clip(graph, x, -1.0, 1.0),
    "hard_shrink": _one("Shrink", lambd=0.5, bias=0.0),
    "soft_shrink": _one("Shrink", lambd=0.5, bias=0.5),
    "log_sigmoid": _log_sigmoid,
    "squareplus": _squareplus,
    "tanh_shrink": lambda graph, x: graph.add("Sub", [x, graph.add("Tanh", [x], x.shape)], x.shape),
}
# Operations of keras.ops whose class is not named as the function is.
_NAMES = {
    "LeakyRelu": "leaky_relu", "HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu", "Exp": "exponential", "LogSigmoid": "log_sigmoid",
    "HardTanh": "hard_tanh", "TanhShrink": "tanh_shrink",
}  # fmt: skip


@writes(layers.Activation)
def _activation(graph: Graph, layer: Any, given: Given) -> Value:
    return activate(graph, given["inputs"], layer.activation, layer=layer)


@writes(layers.ReLU)
def _relu(graph: Graph, layer: Any, given: Given) -> Value:
    x, slope, threshold = given["inputs"], float(layer.negative_slope), float(layer.threshold)
    if threshold:
        edge = graph.constant(threshold, "threshold")
        above = graph.add("GreaterOrEqual", [x, edge], x.shape)
        below = graph.add("Mul", [graph.add("Sub", [x, edge], x.shape), graph.constant(slope, "slope")], x.shape)
        x = graph.add("Where", [above, x, below], x.shape)
    else:
        x = graph.add("LeakyRelu", [x], x.shape, alpha=slope) if slope else graph.add("Relu", [x], x.shape)
    return x if layer.max_value is None else clip(graph, x, None, float(layer.max_value))


@writes(layers.PReLU)
def _prelu(graph: Graph, layer: Any, given: Given) -> Value:
    x = given["inputs"]
    return graph.add("PRelu", [x, graph.constant(np.asarray(layer.alpha)[None], "alpha")], x.shape)


@writes(layers.LeakyReLU)
def _leaky_relu(graph: Graph, layer: Any, given: Given) -> Value:
    x = given["inputs"]
    return graph.add("LeakyRelu", [x], x.shape, alpha=float(layer.negative_slope))


@writes(layers.ELU)
def _elu(graph: Graph, layer: Any, given: Given) -> Value:
    x = given["inputs"]
    return graph.add("Elu", [x], x.shape, alpha=float(layer.alpha))


@writes(layers.Softmax)
def _softmax(graph: Graph, layer: Any, given: Given) -> Value:
    only(given, "inputs", layer=layer)
    if not isinstance(layer.axis, int):
        raise refuse(layer, f"axis = {layer.axis}", "use one axis")
    x = given["inputs"]
    return graph.add("Softmax", [x], x.shape, axis=layer.axis)


@writes(
    "Relu",
    "Relu6",
    "Sigmoid",
    "Tanh",
    "Softplus",
    "Softsign",
    "Exp",
    "Silu",
    "LeakyRelu",
    "HardSigmoid",
    "HardSilu",
    "Gelu",
    "Elu",
    "Selu",
    "LogSigmoid",
    "HardTanh",
    "TanhShrink",
    "Squareplus",
    "Celu",
    "Glu",
)
def _operation(graph: Graph, operation: Any, given: Given) -> Value:
    kind, x = type(operation).__name__, given["x"]
    if kind in ("LeakyRelu", "Elu", "Celu"):
        slope = operation.negative_slope if kind == "LeakyRelu" else operation.alpha
        return graph.add(kind, [x], x.shape, alpha=float(slope))
    if kind == "Glu":
        return _glu(graph, x, operation.axis)
    if kind == "Squareplus":
        return _squareplus(graph, x, float(operation.b))
    approximate = kind == "Gelu" and operation.approximate
    return _gelu_tanh(graph, x) if approximate else _WRITERS[_NAMES.get(kind, kind.lower())](graph, x)


@writes("Softmax", "LogSoftmax")
def _softmax_operation(graph: Graph, operation: Any, given: Given) -> Value:
    if not isinstance(operation.axis, int):
        raise refuse(operation, f"axis = {operation.axis}", "use one axis")
    return graph.add(type(operation).__name__, [given["x"]], given["x"].shape, axis=operation.axis)
