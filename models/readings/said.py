"""Whether a model itself says how its pixels were scaled: something brings them to scale before the first layer that learned."""

from __future__ import annotations

from typing import Any

import keras

from models.readings.walk import constants, operations

_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization)
_ARITHMETIC = {"Add", "Subtract", "Multiply", "Divide", "TrueDivide"}
_SHAPERS = ("Transpose", "Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze", "Gather", "Flatten", "Pad", "Concat")


def scaling_in(model: Any) -> str | None:
    """The name of the layer or operation that scales pixels inside `model`, as in `x / 127.5 - 1`; None where there is none.

    EfficientNet, MobileNetV3, ConvNeXt and their kind of keras.applications hold a Rescaling or Normalization of their own.
    """
    for operation, call in operations(model):
        if isinstance(operation, _LAYERS):
            return str(operation.name)
        if isinstance(operation, keras.Layer):
            if operation.weights:
                return None
        elif type(operation).__name__ in _ARITHMETIC and call is not None and constants(call):
            return str(operation.name)
    return None


def scaling_in_graph(graph: Any) -> str | None:
    """The same of an ONNX graph: arithmetic with constants between the pixels and the first node that has weights."""
    constants_ = {tensor.name for tensor in graph.initializer}
    constants_ |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    pixels = {value.name for value in graph.input} - constants_
    for node in graph.node:
        if not pixels.intersection(node.input):
            continue
        given = constants_.intersection(node.input)
        if node.op_type in ("Add", "Sub", "Mul", "Div") and given:
            return str(node.name or node.output[0])
        if node.op_type not in _SHAPERS:
            return None
        pixels.update(node.output)
    return None
