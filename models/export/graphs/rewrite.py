"""What is changed in TensorFlow's graph before tf2onnx converts it, and what to say where it cannot be converted."""

from __future__ import annotations

from typing import Any

from models.errors import ExportRefused
from models.export.graphs.finish import layer_of
from models.export.model.reason import reason


def one_value_vectors(graph: Any, nodes: list[Any]) -> list[Any]:
    """Turn a constant without axes that is added, as the 3 of hard-swish, into one of shape [1].

    tf2onnx joins what is added to a convolution with it as its bias, and stops at one that has no axes to be counted.
    """
    for node in [node for node in nodes if node.type in ("Add", "AddV2")]:
        for place, source in enumerate(node.inputs):
            other = node.inputs[1 - place]
            if source.is_const() and graph.get_shape(source.output[0]) == [] and graph.get_rank(other.output[0]):
                value = source.get_tensor_value(as_list=False).reshape(1)
                vector = graph.make_const(f"{node.name}_{place}_vector", value)
                graph.replace_input(node, node.input[place], vector.output[0], place)
    return list(graph.get_nodes())


def not_converted(error: Exception, known: set[str]) -> ExportRefused:
    """The refusal for an exception of Keras, TensorFlow or tf2onnx: with the layer of `known` whose node was at hand when it was raised."""
    layer, step = "", error.__traceback__
    while step is not None:
        for name in ("node", "trans", "op"):
            part = step.tb_frame.f_locals.get(name)
            if all(hasattr(part, wanted) for wanted in ("name", "input", "output", "type")):
                layer = layer_of(part, known) or layer
        step = step.tb_next
    where = f"layer {layer!r}" if layer else f"one of the layers {', '.join(sorted(known)[:8])}"
    return ExportRefused(
        f"{where} cannot be converted to ONNX ({reason(error)}); replace it with layers of keras.layers, and report this if it is one"
    )
