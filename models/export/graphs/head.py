"""The head as ONNX: real LSTM and GRU nodes, written layer by layer from the Keras weights, for any B and T."""

from __future__ import annotations

import keras
import onnx
from onnx import helper

from models.export.graphs.finish import finish
from models.export.model.outputs import output_names
from models.export.nodes.graph import OPSET, Graph, Value


def head_onnx(head: keras.Model) -> onnx.ModelProto:
    """`features` float32 `[B, T, D]` → `probabilities` `[B, K]` (and `attention` `[B, T]`, `positions` `[B, T, K]`); raises ExportRefused.

    `head` is a functional model with a dict of outputs, as `split_model` gives it.
    """
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
