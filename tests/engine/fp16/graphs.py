"""Graphs as text: how to run one, and in which types it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
HEADER = '<ir_version: 8, opset_import: ["" : 18]>\n'


def session(model: bytes) -> Any:
    """Without its optimizers: they answer 0 for a Q/DQ graph in half (onnxruntime 1.31), which it runs well as it stands."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, **arrays: np.ndarray) -> np.ndarray:
    return session(model).run(None, arrays)[0]


def text(body: str) -> bytes:
    return onnx.parser.parse_model(HEADER + body).SerializeToString()


def kinds(model: bytes) -> dict[str, set[int]]:
    """For each kind of node the types of the floats that it reads."""
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True)
    graph = proto.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    found: dict[str, set[int]] = {}
    for node in graph.node:
        found.setdefault(node.op_type, set()).update(
            {FLOAT, HALF}.intersection(types[name] for name in node.input if name)
        )
    return found
