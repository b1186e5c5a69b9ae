"""A functional Keras model as one ONNX graph of bytes: recurrent layers as real nodes, everything else by way of tf2onnx.

What no recurrent layer comes before is one translation, so that its convolutions, activations and transposes are optimized
together. After that layers are written by the node writers, and what those do not know is translated again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import keras
import onnx
from keras import layers
from onnx import helper

from models.errors import ExportRefused
from models.export.graphs.finish import finish, rename
from models.export.graphs.translate import Entry, translate
from models.export.model.trace import Call, Edge, Trace, trace
from models.export.nodes.graph import OPSET, Graph, Value
from models.export.nodes.unroll import unrolled, unrolls

Shape = Sequence[str | int]


def assemble(
    model: keras.Model,
    *,
    name: str,
    entry: tuple[str, Shape],
    gives: Mapping[str, Shape],
    dtype: Literal["uint8", "float32"] = "uint8",
) -> onnx.ModelProto:
    """`entry` (name and shape) of `dtype` → `gives` float32, axes by name where they are dynamic; raises ExportRefused by layer.

    `model` takes the same values as float32, and has one output or a dict of them. Of features, float32, every layer that can be
    is written: there is no CNN to be optimized as a whole.
    """
    import onnxslim  # noqa: PLC0415 -- takes a second to import, and only an export needs it

    flat = trace(unrolled(model))
    known = {call.operation.name for call in flat.calls if call.is_layer}
    names = sorted(model.output) if isinstance(model.output, dict) else list(gives)
    outputs = dict(zip(names, flat.outputs, strict=True))
    after = _after_recurrence(flat) if dtype == "uint8" else flat.calls
    body = tuple(call for call in flat.calls if call not in after)
    given = Entry(entry[0], tuple(None if isinstance(size, str) else size for size in entry[1]), dtype)
    if after:
        proto = _Assembly(flat, given, known).run(body, after, outputs, gives)
    else:
        proto = translate(body, inputs={flat.inputs[0]: given}, outputs=outputs, known=known)
    proto = onnxslim.slim(proto)
    _stamp(proto, name, {**gives, entry[0]: entry[1]}, order=list(gives))
    rename(proto, layers=known)
    return finish(proto)


def _after_recurrence(flat: Trace) -> tuple[Call, ...]:
    """The recurrent layers that are to be real nodes, and all calls that come after one."""
    reached: set[Edge] = set()
    found = []
    for call in flat.calls:
        if _is_recurrent(call) or not reached.isdisjoint(call.inputs):
            found.append(call)
            reached.update(call.outputs)
    return tuple(found)


def _is_recurrent(call: Call) -> bool:
    return isinstance(call.operation, (layers.RNN, layers.Bidirectional)) and not unrolls(call.operation)


@dataclass(slots=True)
class _Assembly:
    """One graph out of translated and of written parts; `values`: the tensors that it has so far."""

    flat: Trace
    entry: Entry
    known: set[str]
    graph: Graph = field(default_factory=Graph)
    values: dict[Edge, Value] = field(default_factory=dict)
    parts: int = 0

    def run(
        self, body: Sequence[Call], after: Sequence[Call], outputs: Mapping[str, Edge], gives: Mapping[str, Shape]
    ) -> onnx.ModelProto:
        source = self.flat.inputs[0]
        if self.entry.dtype == "float32":
            self.values[source] = Value(self.entry.name, source.shape)
        elif any(source in call.inputs for call in after):
            cast = self.graph.add("Cast", [self.entry.name], source.shape, to=onnx.TensorProto.FLOAT)
            self.values[source] = cast
        self._translate(body)
        waiting: list[Call] = []
        for call in after:
            if any(edge not in self.values for edge in call.inputs) and not _is_recurrent(call):
                waiting.append(call)  # what stands behind a translated layer is translated with it
                continue
            if any(edge not in self.values for edge in call.inputs):
                self._translate(waiting)
                waiting = []
            if _is_recurrent(call) or self._can_write(call):
                self._write(call)
            else:
                waiting.append(call)
        self._translate(waiting)
        for name, edge in outputs.items():
            self.graph.nodes.append(helper.make_node("Identity", [self.values[edge].name], [name], name=name))
        kind = onnx.TensorProto
        proto = helper.make_graph(
            self.graph.nodes,
            "parts",
            [
                helper.make_tensor_value_info(
                    self.entry.name, kind.UINT8 if self.entry.dtype == "uint8" else kind.FLOAT, self.entry.shape
                )
            ],
            [helper.make_tensor_value_info(name, kind.FLOAT, shape) for name, shape in gives.items()],
            self.graph.initializers,
        )
        return helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)

    def _can_write(self, call: Call) -> bool:
        try:
            self._written(Graph(), call)
        except ExportRefused:
            return False
        return True

    def _write(self, call: Call) -> None:
        self.values.update(zip(call.outputs, self._written(self.graph, call), strict=True))

    def _written(self, graph: Graph, call: Call) -> tuple[Value, ...]:
        args, kwargs = keras.tree.map_structure(
            lambda part: self.values[part] if isinstance(part, Edge) else part, (call.args, dict(call.kwargs))
        )
        written = graph.call(call.operation, args, kwargs)
        return written if isinstance(written, tuple) else (written,)

    def _translate(self, calls: Sequence[Call]) -> None:
        if not calls:
            return
        made = {edge for call in calls for edge in call.outputs}
        source = self.flat.inputs[0]
        reads = _ordered(edge for call in calls for edge in call.inputs if edge not in made)
        others = [call for call in self.flat.calls if call not in calls]
        needed = {edge for call in others for edge in call.inputs} | set(self.flat.outputs)
        gives = _ordered(edge for call in calls for edge in call.outputs if edge in needed)
        inputs = {
            edge: self.entry
            if edge is source
            else Entry(f"given_{number}", self.values[edge].shape)
            for number, edge in enumerate(reads)
        }  # fmt: skip
        part = translate(
            calls,
            inputs=inputs,
            outputs={f"gives_{number}": edge for number, edge in enumerate(gives)},
            known=self.known,
        )
        names = {
            entry.name: self.values[edge].name if edge is not source else entry.name for edge, entry in inputs.items()
        }
        found = self._inline(part, names)
        for number, edge in enumerate(gives):
            self.values[edge] = Value(found[f"gives_{number}"], edge.shape)

    def _inline(self, part: onnx.ModelProto, names: dict[str, str]) -> dict[str, str]:
        """Add the nodes of `part`, whose inputs have `names` here; returns its own names with what they are here."""
        self.parts += 1
        known = dict(names)

        def name(old: str) -> str:
            return known.setdefault(old, f"part{self.parts}/{old}") if old else old

        for tensor in part.graph.initializer:
            copy = onnx.TensorProto.FromString(tensor.SerializeToString())
            copy.name = name(tensor.name)
            self.graph.initializers.append(copy)
        for node in part.graph.node:
            copy = onnx.NodeProto.FromString(node.SerializeToString())
            copy.input[:], copy.output[:] = map(name, node.input), map(name, node.output)
            self.graph.nodes.append(copy)
        return known


def _ordered(edges: Iterable[Edge]) -> list[Edge]:
    return list(dict.fromkeys(edges))


def _stamp(proto: onnx.ModelProto, name: str, shapes: Mapping[str, Shape], *, order: list[str]) -> None:
    """Names of graph and axes, the order of outputs, and ONNX's own operators only."""
    graph = proto.graph
    for value in (*graph.input, *graph.output):
        dimensions = value.type.tensor_type.shape
        dimensions.Clear()
        for size in shapes[value.name]:
            part = dimensions.dim.add()
            if isinstance(size, str):
                part.dim_param = size
            else:
                part.dim_value = size
    found = {value.name: onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in graph.output}
    del graph.output[:]
    graph.output.extend(found[name] for name in order)
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("", OPSET))
    graph.name = name
