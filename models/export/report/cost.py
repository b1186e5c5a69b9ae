"""What a graph costs: multiply-accumulates and parameters of every node, counted from shapes, not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
from onnx import numpy_helper

from models.export.report.shapes import Shape, shapes_of

# Products for each value of the hidden state, and its gates: one matrix each for the input and for the state.
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}


@dataclass(frozen=True, slots=True)
class NodeCost:
    """One node: its layer, its kind, the shape of its first output (channels first, batch included), what it holds and computes."""

    node: str
    layer: str
    kind: str
    output: Shape
    parameters: int
    macs: int


@dataclass(frozen=True, slots=True)
class Cost:
    """A graph at given sizes. `parameters`: the values of its weights, each once; `macs`: of convolutions, products and recurrent
    layers, as the literature counts them: additions, activations and pools are not.
    """

    nodes: tuple[NodeCost, ...]

    @property
    def macs(self) -> int:
        return sum(node.macs for node in self.nodes)

    @property
    def parameters(self) -> int:
        return sum(node.parameters for node in self.nodes)


def graph_cost(model: onnx.ModelProto, *, sizes: Mapping[str, int]) -> Cost:
    """Count `model` with its symbolic axes at `sizes`, such as `{"N": 1}` for one frame. Raises ExportRefused.

    Nodes that only make constants (a Cast of weights stored in half precision, Q/DQ of weights) count with what reads them.
    """
    shapes = shapes_of(model, sizes=sizes)
    constants = constants_of(model.graph)
    counted = set[str]()
    rows = []
    for node in model.graph.node:
        if all(name in constants for name in node.output if name):
            continue
        held = 0
        for weight in (weight for name in node.input for weight in constants.get(name, ())):
            if weight.name not in counted:
                counted.add(weight.name)
                held += _parameters(node, weight)
        output = shapes.get(node.output[0]) or next((shapes[name] for name in node.output if name in shapes), ())
        macs = _MACS[node.op_type](node, shapes) if node.op_type in _MACS else 0
        rows.append(NodeCost(node.name, layer_name(node), node.op_type, output, held, macs))
    return Cost(tuple(rows))


def layer_name(node: onnx.NodeProto) -> str:
    """The layer of a node that is named `layer/Kind`; the node's own name where it has none."""
    return str(node.name).strip("/").rpartition("/")[0] or str(node.name).strip("/") or str(node.op_type)


def constants_of(graph: onnx.GraphProto) -> dict[str, tuple[onnx.TensorProto, ...]]:
    """For each tensor that no input reaches, the weights that it was made of."""
    found = {tensor.name: (tensor,) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            (tensor,) = [part.t for part in node.attribute if part.name == "value"] or [onnx.TensorProto()]
            tensor = onnx.TensorProto.FromString(tensor.SerializeToString())
            tensor.name = node.output[0]
            found[node.output[0]] = (tensor,)
        elif node.input and all(name in found for name in node.input if name):
            read = node.input[:1] if node.op_type == "DequantizeLinear" else node.input  # a scale is no weight
            made = tuple(weight for name in read if name for weight in found[name])
            found.update(dict.fromkeys(node.output, made))
    return found


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(part) for part in node.attribute if part.name == name), default)


def _parameters(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    """A scalar is a setting, no parameter, and so is what is no number with a fraction, but for quantized weights."""
    count = int(prod(weight.dims))
    if weight.data_type == onnx.TensorProto.INT8 and node.op_type != "QuantizeLinear" and weight.dims:
        return count
    if weight.data_type not in _FLOATS or count <= 1 or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return 0
    if node.op_type in GATES and len(weight.dims) == 2:
        # ONNX has two biases, and Keras's LSTM one: then the other is written as zeros.
        biases = numpy_helper.to_array(weight)
        half = biases.shape[1] // 2
        return count if biases[:, half:].any() else int(biases[:, :half].size)
    return count


def _convolution(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Each output value is one product with a kernel `[C_in / groups, …]`."""
    return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])


def _transposed(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Each input value is spread by a kernel `[C_out / groups, …]`."""
    return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _product(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if attribute(node, "transA", 0) else 1]


def _recurrent(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """`W` is `[directions, gates · hidden, inputs]`, `R` `[directions, gates · hidden, hidden]`; each is used once a step and row."""
    steps, rows = shapes[node.input[0]][:2]
    return steps * rows * (prod(shapes[node.input[1]]) + prod(shapes[node.input[2]]))


def _einsum(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Every combination of the letters is one product; more than two operands, or an ellipsis, are not counted."""
    terms = [term.strip() for term in attribute(node, "equation", b"").decode().partition("->")[0].split(",")]
    if len(terms) != 2 or any("." in term for term in terms):
        return 0
    sizes = {
        letter: size for term, name in _pairs(terms, node) for letter, size in zip(term, shapes[name], strict=True)
    }
    return prod(sizes.values())


def _pairs(terms: list[str], node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    return zip(terms, node.input, strict=True)


_MACS: dict[str, Callable[[onnx.NodeProto, Mapping[str, Shape]], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "MatMul": _product,
    "Gemm": _gemm,
    "Einsum": _einsum,
    **dict.fromkeys(GATES, _recurrent),
}
