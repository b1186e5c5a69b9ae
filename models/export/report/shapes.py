"""The shape of every tensor of a graph, once its dynamic axes are given a size."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx
from onnx import helper

from models.errors import ExportRefused
from models.export.runtime import Runtime

Shape = tuple[int, ...]
# Constants up to so many values may be shapes, axes or bounds that shape inference reads; of larger ones only the shape counts.
_READ = 64


def shapes_of(model: onnx.ModelProto, *, sizes: Mapping[str, int]) -> dict[str, Shape]:
    """By tensor name, constants included; `sizes` says how large each symbolic axis of an input is, such as `{"N": 1}`.

    Inferred without running anything; where a graph computes its own shapes and that does not suffice, onnxruntime runs it
    once on zeros. Raises ExportRefused for an axis that is not in `sizes`.
    """
    fixed = _fixed(model, sizes)
    found = _inferred(_without_weights(fixed))
    missing = [name for node in model.graph.node for name in node.output if name and name not in found]
    return found | _run(fixed, missing) if missing else found


def _fixed(model: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if not axis.HasField("dim_value"):
                if axis.dim_param not in sizes:
                    raise ExportRefused(
                        f"input {value.name!r} has a dynamic axis {axis.dim_param!r}, sizes are given for {sorted(sizes)}; name the axis as one of these"
                    )
                axis.dim_value = sizes[axis.dim_param]
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    return copy


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Large constants become inputs: shape inference copies the graph several times over."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    kept = [tensor for tensor in light.graph.initializer if prod(tensor.dims) <= _READ]
    moved = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in light.graph.initializer
        if prod(tensor.dims) > _READ
    ]
    held = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del light.graph.initializer[:]
    light.graph.initializer.extend(held)
    light.graph.input.extend(moved)
    return light


def _inferred(model: onnx.ModelProto) -> dict[str, Shape]:
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph  # it knows no shapes then, and a run does
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        axes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            found[value.name] = tuple(axis.dim_value for axis in axes)
    return found


def _run(model: onnx.ModelProto, names: list[str]) -> dict[str, Shape]:
    (source,) = model.graph.input
    kind = source.type.tensor_type
    zeros = np.zeros([axis.dim_value for axis in kind.shape.dim], helper.tensor_dtype_to_np_dtype(kind.elem_type))
    given = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    return {name: array.shape for name, array in Runtime(model)(zeros).items()}
