"""What every exported graph must be: checked, free of control flow, with names that every run gives alike."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper

from models.errors import ExportRefused

# ir_version 8 belongs to opset 18; newer ones are refused by older onnxruntime and TensorRT for no gain.
_IR_VERSION = 8
_CONTROL_FLOW = {"Loop", "Scan", "If"}


def finish(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stamp and check `model`, in place; raises ExportRefused where a node is control flow or the checker objects."""
    model.ir_version = _IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "marey", "", ""
    del model.metadata_props[:]
    _guard_padding(model.graph)
    _plain_nearest(model.graph)
    loops = [node for node in model.graph.node if node.op_type in _CONTROL_FLOW]
    if loops:
        raise ExportRefused(
            f"the graph holds {loops[0].op_type} ({loops[0].name!r}), which the engines cannot run fast; "
            "replace the layer of that name with one that needs no loop, or put it after the features"
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportRefused(
            f"the exported graph is not valid ONNX ({str(error).splitlines()[0]}); report this with the model's layers"
        ) from error
    return model


def _guard_padding(graph: onnx.GraphProto) -> None:
    """Zeros around what a MaxPool reads become the smallest number above zero; see Note [padding of maxima].

    # Note [padding of maxima]
    onnxruntime 1.31 makes the padding of a Pad that of the MaxPool behind it, which pads with −∞: where all values are negative, as
    in ResNet50V2, the border is wrong. It leaves a Pad of another value than zero alone.
    """
    read = {node.input[0] for node in graph.node if node.op_type == "MaxPool"}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Pad" and node.output[0] in read]:
        mode = next((part.s for part in node.attribute if part.name == "mode"), b"constant")
        value = node.input[2] if len(node.input) > 2 else ""
        zero = not value or (value in constants and not numpy_helper.to_array(constants[value]).any())
        if mode == b"constant" and zero:
            tiny = numpy_helper.from_array(np.finfo(np.float32).tiny, f"{node.name}/above_zero")
            graph.initializer.append(tiny)
            node.input[:] = [*node.input[:2], tiny.name, *node.input[3:]]


def _plain_nearest(graph: onnx.GraphProto) -> None:
    """Nearest pixels as TensorFlow takes them, ⌊(i + ½)·scale⌋, under names that TensorRT knows, too: a rounded half-pixel position."""
    for node in [node for node in graph.node if node.op_type == "Resize"]:
        modes = {part.name: part for part in node.attribute}
        transformation, nearest = modes.get("coordinate_transformation_mode"), modes.get("nearest_mode")
        if transformation and nearest and (transformation.s, nearest.s) == (b"tf_half_pixel_for_nn", b"floor"):
            transformation.s, nearest.s = b"half_pixel", b"round_prefer_ceil"


def rename(model: onnx.ModelProto, *, layers: Iterable[str] = ()) -> None:
    """Give nodes, tensors and initializers names without the counters of the exporter, in the order of the graph.

    A node is `layer/Kind` after the layer of `layers` that it came from, a tensor is named after its node, an initializer after the
    node that reads it first and the place there.
    """
    graph, taken, new, known = model.graph, set[str](), dict[str, str](), set(layers)
    fixed = {value.name for value in (*graph.input, *graph.output)}
    initial = {tensor.name for tensor in graph.initializer}

    def unique(name: str) -> str:
        candidate, number = name, 1
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        return candidate

    taken.update(fixed)
    for node in graph.node:
        node.name = unique("/".join(filter(None, (layer_of(node, known), node.op_type))))
        for place, source in enumerate(node.input):
            if source in initial and source not in new:
                new[source] = unique(f"{node.name}/{place}")
        for place, target in enumerate(node.output):
            if target and target not in fixed:
                new[target] = unique(f"{node.name}:{place}")
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    kept = [tensor for tensor in graph.initializer if tensor.name in new]
    for tensor in kept:
        tensor.name = new[tensor.name]
    ordered = sorted(({tensor.name: tensor for tensor in kept}).items())
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for _, tensor in ordered]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(copies)


def layer_of(node: onnx.NodeProto, known: set[str]) -> str:
    """The Keras layer in the path of names that TensorFlow gave a node: `encoder_1/block_1_expand_1/BiasAdd__12` is block_1_expand."""
    for path in (node.name, *node.output, *reversed(node.input[1:])):
        for part in path.split("/"):
            for candidate in (part, re.sub(r"_\d+$", "", part)):
                if candidate in known:
                    return candidate
    return ""
