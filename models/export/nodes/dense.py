"""ONNX nodes of Dense, normalisations and the layers that are idle once a model is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from models.errors import ExportRefused
from models.export.model.fold import batchnorm_affine
from models.export.model.trace import functional, trace
from models.export.nodes.activation import activate
from models.export.nodes.graph import Given, Graph, Value, Written, only, refuse, writes

# Layers that work along the last axis only: the same whether or not TimeDistributed is wrapped around them.
_LAST_AXIS = (layers.Dense, layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax, layers.BatchNormalization,
              layers.LayerNormalization, layers.Dropout, layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout, layers.Identity,
              layers.Flatten, layers.Rescaling, layers.UnitNormalization, layers.RMSNormalization, layers.Normalization,
              layers.SpectralNormalization, layers.SpatialDropout1D)  # fmt: skip


def affine(graph: Graph, x: Value, kernel: Any, bias: Any | None, *, name: str = "") -> Value:
    """x·kernel + bias along the last axis; `kernel` `[D, U]`."""
    weights = graph.constant(np.asarray(kernel), f"{name}kernel")
    shape = (*x.shape[:-1], int(kernel.shape[-1]))
    y = graph.add("MatMul", [x, weights], shape)
    return y if bias is None else graph.add("Add", [y, graph.constant(np.asarray(bias), f"{name}bias")], shape)


@writes(layers.Dense)
def _dense(graph: Graph, layer: Any, given: Given) -> Value:
    return activate(
        graph,
        affine(graph, given["inputs"], layer.kernel, layer.bias if layer.use_bias else None),
        layer.activation,
        layer=layer,
    )


@writes(layers.BatchNormalization)
def _batchnorm(graph: Graph, layer: Any, given: Given) -> Value:
    only(given, "inputs", layer=layer)
    x = given["inputs"]
    if layer.axis not in (-1, x.rank - 1):
        raise refuse(layer, f"axis = {layer.axis}", "normalise the last axis")
    scale, shift = batchnorm_affine(layer)
    scaled = graph.add("Mul", [x, graph.constant(scale, "scale")], x.shape)
    return graph.add("Add", [scaled, graph.constant(shift, "shift")], x.shape)


@writes(layers.Normalization)
def _normalization(graph: Graph, layer: Any, given: Given) -> Value:
    x = given["inputs"]
    mean, deviation = (
        np.asarray(layer.mean, np.float64),
        np.maximum(np.sqrt(np.asarray(layer.variance, np.float64)), 1e-7),
    )
    scale, shift = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    scaled = graph.add("Mul", [x, graph.constant(scale, "scale")], x.shape)
    return graph.add("Add", [scaled, graph.constant(shift, "shift")], x.shape)


@writes(layers.Rescaling)
def _rescaling(graph: Graph, layer: Any, given: Given) -> Value:
    x = given["inputs"]
    scaled = graph.add("Mul", [x, graph.constant(layer.scale, "scale")], x.shape)
    return graph.add("Add", [scaled, graph.constant(layer.offset, "offset")], x.shape)


@writes(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D, layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout,
        layers.ActivityRegularization, layers.Identity)  # fmt: skip
def _idle(_graph: Graph, _layer: Any, given: Given) -> Value:
    value: Value = given["inputs"]
    return value


@writes(layers.TimeDistributed)
def _time_distributed(graph: Graph, layer: Any, given: Given) -> Written:
    only(given, "inputs", layer=layer)
    x, inner = given["inputs"], layer.layer
    graph_of_inner = functional(inner)
    inside = [inner] if graph_of_inner is None else [call.operation for call in trace(inner).calls]
    if x.rank != 3 or not all(type(part) in _LAST_AXIS for part in inside):
        raise ExportRefused(
            f"TimeDistributed {layer.name!r} wraps {type(inner).__name__} on {list(x.shape)}; after the features only layers of the last axis "
            f"can be wrapped: {', '.join(kind.__name__ for kind in _LAST_AXIS)}"
        )
    return x if isinstance(inner, layers.Flatten) else graph.call(inner, (x,), {})
