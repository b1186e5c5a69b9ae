"""ONNX nodes of Keras's attention layers: softmax(scores)·value over time."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from models.export.nodes.dense import affine
from models.export.nodes.graph import Given, Graph, Value, Written, only, refuse, writes


@writes(layers.Attention, layers.AdditiveAttention)
def _attention(graph: Graph, layer: Any, given: Given) -> Written:
    """Luong's dot product or Bahdanau's sum of tanh, query `[B, Tq, D]` and value `[B, Tv, D]`."""
    only(given, "inputs", "return_attention_scores", "use_causal_mask", layer=layer)
    query, value, *rest = given["inputs"]
    key = rest[0] if rest else value
    if type(layer) is layers.AdditiveAttention or layer.score_mode == "concat":
        scores = _additive_scores(graph, layer, query, key)
    else:
        turned = graph.add("Transpose", [key], (None, key.width, key.shape[1]), perm=[0, 2, 1])
        scores = graph.add("MatMul", [query, turned], (None, query.shape[1], key.shape[1]))
        if layer.scale is not None:
            scores = graph.add("Mul", [scores, graph.constant(float(layer.scale), "scale")], scores.shape)
    if given.get("use_causal_mask"):
        scores = _causal(graph, scores)
    weights = graph.add("Softmax", [scores], scores.shape, axis=-1)
    output = graph.add("MatMul", [weights, value], (None, query.shape[1], value.width))
    return (output, weights) if given.get("return_attention_scores") else output


def _additive_scores(graph: Graph, layer: Any, query: Value, key: Value) -> Value:
    rows = graph.add("Unsqueeze", [query, graph.integers([2], "axes")], (None, query.shape[1], 1, query.width))
    columns = graph.add("Unsqueeze", [key, graph.integers([1], "axes")], (None, 1, key.shape[1], key.width))
    total = graph.add("Add", [rows, columns], (None, query.shape[1], key.shape[1], key.width))
    additive = type(layer) is layers.AdditiveAttention
    inner = (
        None if additive else layer.scale
    )  # Attention(score_mode="concat") scales inside the tanh, AdditiveAttention outside
    if inner is not None:
        total = graph.add("Mul", [total, graph.constant(np.asarray(inner), "scale")], total.shape)
    bent = graph.add("Tanh", [total], total.shape)
    outer = layer.scale if additive else None
    if outer is not None:
        bent = graph.add("Mul", [bent, graph.constant(np.asarray(outer), "scale")], bent.shape)
    scores = graph.add(
        "ReduceSum", [bent, graph.integers([3], "axes")], (None, query.shape[1], key.shape[1]), keepdims=0
    )
    return (
        scores
        if additive
        else graph.add("Mul", [scores, graph.constant(float(layer.concat_score_weight), "weight")], scores.shape)
    )


def _causal(graph: Graph, scores: Value) -> Value:
    """Scores `[…, Tq, Tv]` in which no query sees a later key: those are pushed down so far that their softmax is 0, also in half precision."""
    first = [0] * (scores.rank - 2)
    starts, ends, axes = first, [1] * len(first), list(range(len(first)))
    bounds = [graph.integers(part, name) for part, name in ((starts, "starts"), (ends, "ends"), (axes, "axes"))]
    matrix = graph.add("Slice", [scores, *bounds], (*ends, *scores.shape[-2:]))
    ones = graph.add("Add", [graph.add("Mul", [matrix, graph.constant(0.0, "zero")], matrix.shape), graph.constant(1.0, "one")],
                     matrix.shape)  # fmt: skip
    later = graph.add("Trilu", [ones, graph.integers(1, "above")], matrix.shape, upper=1)
    return graph.add(
        "Sub", [scores, graph.add("Mul", [later, graph.constant(3e4, "hidden")], later.shape)], scores.shape
    )


@writes(layers.MultiHeadAttention)
def _multi_head(graph: Graph, layer: Any, given: Given) -> Written:
    only(given, "query", "value", "key", "return_attention_scores", "use_causal_mask", layer=layer)
    query, value = given["query"], given["value"]
    key = value if given.get("key") is None else given["key"]
    config = layer.get_config()
    if query.rank != 3 or value.rank != 3 or config.get("use_gate") or getattr(layer, "_sliding_window", None):
        raise refuse(
            layer, "a gate, a sliding window or inputs of another rank than [B, T, D]", "use plain attention over time"
        )
    heads, key_dim, value_dim = config["num_heads"], config["key_dim"], config["value_dim"] or config["key_dim"]
    q = _heads(graph, query, layer.query_dense, heads=heads, size=key_dim, name="query", perm=[0, 2, 1, 3])
    k = _heads(graph, key, layer.key_dense, heads=heads, size=key_dim, name="key", perm=[0, 2, 3, 1])
    v = _heads(graph, value, layer.value_dense, heads=heads, size=value_dim, name="value", perm=[0, 2, 1, 3])
    q = graph.add("Mul", [q, graph.constant(1.0 / np.sqrt(key_dim), "scale")], q.shape)
    scores = graph.add("MatMul", [q, k], (None, heads, query.shape[1], key.shape[1]))
    if given.get("use_causal_mask"):
        scores = _causal(graph, scores)
    weights = graph.add("Softmax", [scores], scores.shape, axis=-1)
    mixed = graph.add("MatMul", [weights, v], (None, heads, query.shape[1], value_dim))
    back = graph.add("Transpose", [mixed], (None, query.shape[1], heads, value_dim), perm=[0, 2, 1, 3])
    joined = graph.add(
        "Reshape", [back, graph.integers([0, 0, heads * value_dim], "shape")], (None, query.shape[1], heads * value_dim)
    )
    dense = layer.output_dense
    if len(dense.kernel.shape) != 3:
        raise refuse(layer, f"output_shape = {config['output_shape']}", "give one number")
    kernel = np.asarray(dense.kernel).reshape(heads * value_dim, -1)
    output = affine(graph, joined, kernel, dense.bias if config["use_bias"] else None, name="output_")
    return (output, weights) if given.get("return_attention_scores") else output


def _heads(graph: Graph, x: Value, dense: Any, *, heads: int, size: int, name: str, perm: list[int]) -> Value:
    """The projection of x `[B, T, D]`, split into heads, its axes (B, T, head, size) in the order of `perm`."""
    bias = None if dense.bias is None else np.asarray(dense.bias).reshape(-1)
    flat = affine(graph, x, np.asarray(dense.kernel).reshape(x.width, heads * size), bias, name=f"{name}_")
    split = graph.add(
        "Reshape", [flat, graph.integers([0, 0, heads, size], f"{name}_shape")], (None, x.shape[1], heads, size)
    )
    return graph.add("Transpose", [split], [split.shape[axis] for axis in perm], perm=perm)
