"""A Keras model as a flat list of calls: nested models are inlined, every tensor is an edge of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from models.errors import ExportRefused


@dataclass(frozen=True, slots=True, eq=False)
class Edge:
    """One tensor between two calls; `shape` starts with the batch, None where a dimension is dynamic."""

    shape: tuple[int | None, ...]
    dtype: str

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One application of a layer, or of an operation such as `x + a`. `args` and `kwargs` hold edges where tensors were."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Edge, ...]

    @property
    def inputs(self) -> tuple[Edge, ...]:
        return tuple(part for part in keras.tree.flatten((self.args, dict(self.kwargs))) if isinstance(part, Edge))

    @property
    def is_layer(self) -> bool:
        return isinstance(self.operation, keras.Layer)


@dataclass(frozen=True, slots=True)
class Trace:
    """The calls in an order in which they can run."""

    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    calls: tuple[Call, ...]

    def between(self, sources: Iterable[Edge], targets: Iterable[Edge]) -> tuple[Call, ...]:
        """The calls needed for `targets` when `sources` are given, in order."""
        needed, given = set(targets), set(sources)
        found: list[Call] = []
        for call in reversed(self.calls):
            if any(output in needed and output not in given for output in call.outputs):
                found.append(call)
                needed.update(call.inputs)
        return tuple(reversed(found))

    def consumers(self) -> dict[Edge, int]:
        """How often each edge is read; being an output of the model counts as once."""
        counts: dict[Edge, int] = {}
        for edge in (*self.outputs, *(edge for call in self.calls for edge in call.inputs)):
            counts[edge] = counts.get(edge, 0) + 1
        return counts


def describe(operation: Any) -> str:
    """How an error names a layer or an operation: its name and its class."""
    kind = "layer" if isinstance(operation, keras.Layer) else "operation"
    return f"{kind} {getattr(operation, 'name', '?')!r} ({type(operation).__name__})"


def functional(model: Any) -> Any | None:
    """The functional graph inside `model`, or None for a layer or a subclassed model, whose graph only its code knows."""
    if isinstance(model, keras.Sequential):
        return model._functional  # noqa: SLF001 -- Keras has no public way to the graph of a Sequential
    return model if isinstance(model, keras.Model) and hasattr(model, "_nodes_by_depth") else None


def trace(model: keras.Model) -> Trace:
    """The flat graph of `model`; raises ExportRefused where there is none to be had."""
    graph = functional(model)
    if graph is None:
        raise ExportRefused(
            f"model {model.name!r} ({type(model).__name__}) is subclassed or was never built, so its layers cannot be told apart; "
            "rebuild it as a functional keras.Model(inputs, outputs) and load the weights into it"
        )
    inputs = tuple(_edge(tensor) for tensor in graph.inputs)
    calls: list[Call] = []
    outputs = _inline(graph, inputs, calls)
    return Trace(inputs, outputs, tuple(calls))


def replay(calls: Iterable[Call], values: dict[Edge, Any], apply: Any) -> None:
    """Run `calls` anew: `apply(call, args, kwargs)` gets values in place of edges; its results are filed in `values`."""
    for call in calls:
        args, kwargs = keras.tree.map_structure(
            lambda part: values[part] if isinstance(part, Edge) else part, (call.args, dict(call.kwargs))
        )
        results = keras.tree.flatten(apply(call, args, kwargs))
        values.update(zip(call.outputs, results, strict=True))


def _inline(graph: Any, inputs: tuple[Edge, ...], calls: list[Call]) -> tuple[Edge, ...]:
    edges = {id(tensor): edge for tensor, edge in zip(graph.inputs, inputs, strict=True)}
    by_depth = graph._nodes_by_depth  # noqa: SLF001 -- the documented way, get_config, loses which tensor is which
    for node in (node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]):
        if node.is_input or any(id(tensor) not in edges for tensor in node.input_tensors):
            continue
        args, kwargs = node.arguments.fill_in(edges)
        inner = functional(node.operation)
        if inner is None:
            outputs = tuple(_edge(tensor) for tensor in node.outputs)
            calls.append(Call(node.operation, args, kwargs, outputs))
        else:
            given = tuple(part for part in keras.tree.flatten((args, kwargs)) if isinstance(part, Edge))
            outputs = _inline(inner, given, calls)
        edges.update((id(tensor), edge) for tensor, edge in zip(node.outputs, outputs, strict=True))
    return tuple(edges[id(tensor)] for tensor in graph.outputs)


def _edge(tensor: Any) -> Edge:
    return Edge(tuple(tensor.shape), str(tensor.dtype))
