"""ONNX nodes of activations, as functions and as layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import layers

from models.errors import ExportRefused
from models.export.nodes import Given, Graph, Value, only, refuse, writes
from models.export.trace import describe

_HARD = {"alpha": 1.0 / 6.0, "beta": 0.5}  # hard_sigmoid of Keras 3: relu6(x + 3) / 6


def activate(graph: Graph, x: Value, function: Any, *, layer: Any) -> Value:
    """`function(x)`, an activation as a Keras layer holds it; raises ExportRefused for one of the user's own."""
    if function is None:
        return x
    if isinstance(function, layers.Layer):
        written = graph.call(function, (x,), {})
        return written if isinstance(written, Value) else written[0]
    name = getattr(function, "__name__", type(function).__name__)
    if not getattr(function, "__module__", "").startswith("keras.") or name not in _WRITERS:
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
    "hard_silu": lambda graph, x: _times(graph, x, _one("HardSigmoid", **_HARD)(graph, x)),
    "silu": lambda graph, x: _times(graph, x, _one("Sigmoid")(graph, x)),
    "mish": lambda graph, x: _times(graph, x, _one("Tanh")(graph, _one("Softplus")(graph, x))),
    "gelu": _gelu,
}


@writes(layers.Activation)
def _activation(graph: Graph, layer: Any, given: Given) -> Value:
    return activate(graph, given["inputs"], layer.activation, layer=layer)


@writes(layers.ReLU)
def _relu(graph: Graph, layer: Any, given: Given) -> Value:
    if float(layer.threshold):
        raise refuse(layer, f"threshold = {layer.threshold}", "set it to 0")
    x, slope = given["inputs"], float(layer.negative_slope)
    x = graph.add("LeakyRelu", [x], x.shape, alpha=slope) if slope else graph.add("Relu", [x], x.shape)
    return x if layer.max_value is None else clip(graph, x, None, float(layer.max_value))


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
)
def _operation(graph: Graph, operation: Any, given: Given) -> Value:
    names = {"LeakyRelu": "leaky_relu", "HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu", "Exp": "exponential"}
    kind, x = type(operation).__name__, given["x"]
    if kind == "Gelu" and operation.approximate:
        raise ExportRefused(f"{describe(operation)} is the approximate form; use keras.ops.gelu(x, approximate=False)")
    if kind == "LeakyRelu":
        return graph.add("LeakyRelu", [x], x.shape, alpha=float(operation.negative_slope))
    if kind == "Elu":
        return graph.add("Elu", [x], x.shape, alpha=float(operation.alpha))
    return _WRITERS[names.get(kind, kind.lower())](graph, x)


@writes("Softmax")
def _softmax_operation(graph: Graph, operation: Any, given: Given) -> Value:
    if not isinstance(operation.axis, int):
        raise refuse(operation, f"axis = {operation.axis}", "use one axis")
    return graph.add("Softmax", [given["x"]], given["x"].shape, axis=operation.axis)
