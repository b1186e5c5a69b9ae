"""What every exported graph must be: checked, free of control flow, with names that every run gives alike."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx

from models.errors import ExportRefused

# ir_version 8 belongs to opset 18; newer ones are refused by older onnxruntime and TensorRT for no gain.
_IR_VERSION = 8
_CONTROL_FLOW = {"Loop", "Scan", "If"}


def finish(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stamp and check `model`, in place; raises ExportRefused where a node is control flow or the checker objects."""
    model.ir_version = _IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "marey", "", ""
    del model.metadata_props[:]
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
