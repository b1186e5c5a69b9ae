"""The head as ONNX: real LSTM and GRU nodes, written layer by layer from the Keras weights, for any B and T."""

from __future__ import annotations

import importlib

import keras
import onnx
from onnx import helper

from models.export.graph import finish
from models.export.nodes import OPSET, Graph, Value
from models.export.outputs import output_names

# Each registers the writers of its layers.
_WRITERS = (
    "nodes_activation",
    "nodes_dense",
    "nodes_recurrent",
    "nodes_merge",
    "nodes_shape",
    "nodes_attention",
    "nodes_conv",
    "nodes_normalize",
    "nodes_math",
    "nodes_convlstm",
    "nodes_zoo",
)


def head_onnx(head: keras.Model) -> onnx.ModelProto:
    """`features` float32 `[B, T, D]` → `probabilities` `[B, K]` (and `attention` `[B, T]`, `positions` `[B, T, K]`); raises ExportRefused.

    `head` is a functional model with a dict of outputs, as `split_model` gives it.
    """
    register_writers()
    frames, dim = head.input_shape[1:]
    time = frames or "T"
    graph = Graph()
    written = graph.model(head, [Value("features", (None, frames, dim))])
    values = written if isinstance(written, tuple) else (written,)
    names = output_names(head)
    for name, value in zip(names, values, strict=True):
        graph.nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
    dtype = onnx.TensorProto.FLOAT
    classes = head.output["probabilities"].shape[-1]
    shapes = {"probabilities": ["B", classes], "attention": ["B", time], "positions": ["B", time, classes]}
    proto = helper.make_graph(
        graph.nodes,
        "head",
        [helper.make_tensor_value_info("features", dtype, ["B", time, dim])],
        [helper.make_tensor_value_info(name, dtype, shapes[name]) for name in sorted(names, key=list(shapes).index)],
        graph.initializers,
    )
    return finish(helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)]))


def register_writers() -> None:
    """Have every writer of layers known to `nodes`."""
    for name in _WRITERS:
        importlib.import_module(f"models.export.{name}")
