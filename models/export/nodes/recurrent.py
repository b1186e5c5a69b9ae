"""ONNX nodes of LSTM, GRU, SimpleRNN, RNN of their cells, and Bidirectional of any of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from models.errors import ExportRefused
from models.export.model.trace import describe
from models.export.nodes.graph import Given, Graph, Value, Written, only, refuse, writes
from models.export.nodes.recurrence import Cell, cells_of, read_cell, recurrence

_KINDS = (layers.LSTM, layers.GRU, layers.SimpleRNN, layers.RNN)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a recurrent layer gives: `output` `[B, T, U]` with the steps in the order of the frames, or `[B, U]`; its last states `[B, U]`."""

    output: Value
    states: tuple[Value, ...]


@writes(*_KINDS)
def _recurrent(graph: Graph, layer: Any, given: Given) -> Written:
    only(given, "sequences", "initial_state", layer=layer)
    answer = _run(graph, layer, given["sequences"], _states(layer, given))
    output = answer.output
    if layer.return_sequences and layer.go_backwards:
        output = _flip_time(graph, output)  # Keras gives the steps as it computed them, the last frame first
    return (output, *answer.states) if layer.return_state else output


@writes(layers.Bidirectional)
def _bidirectional(graph: Graph, layer: Any, given: Given) -> Written:
    only(given, "sequences", "initial_state", layer=layer)
    pair = (layer.forward_layer, layer.backward_layer)
    for part in pair:
        if type(part) not in _KINDS:
            raise ExportRefused(
                f"{describe(layer)} wraps {describe(part)}; wrap an LSTM, GRU, SimpleRNN or an RNN of their cells"
            )
    x, begun = given["sequences"], _states(layer, given)
    half = len(begun) // 2
    initial = (begun[:half], begun[half:])
    cells = [[read_cell(cell, layer=layer) for cell in cells_of(part)] for part in pair]
    single = all(len(part) == 1 for part in cells)
    if single and cells[0][0].settings == cells[1][0].settings and not pair[0].go_backwards:
        merged, states = _one_node(graph, layer, x, [cells[0][0], cells[1][0]], initial)
        return (*merged, *states) if layer.return_state else _alone(merged)
    parts: list[Value] = []
    states = ()
    for part, initially in zip(pair, initial, strict=True):
        answer = _run(graph, part, x, initially)
        # Bidirectional flips its second layer's sequence, whichever way that ran.
        flips = layer.return_sequences and part.go_backwards != (part is layer.backward_layer)
        parts.append(_flip_time(graph, answer.output) if flips else answer.output)
        states = (*states, *answer.states)
    merged = _merge(graph, layer, parts)
    return (*merged, *states) if layer.return_state else _alone(merged)


def _states(layer: Any, given: Given) -> tuple[Value, ...]:
    states = tuple(keras.tree.flatten(given.get("initial_state")))
    states = tuple(state for state in states if state is not None)
    if not all(isinstance(state, Value) for state in states):
        raise refuse(layer, "an initial state that is no tensor of the model", "leave it out: states begin at zero")
    return states


def _run(graph: Graph, layer: Any, x: Value, initial: Sequence[Value]) -> _Answer:
    """A layer of one direction, its cells one after the other."""
    states: list[Value] = []
    left = list(initial)
    cells = [read_cell(cell, layer=layer) for cell in cells_of(layer)]
    last = x
    for number, cell in enumerate(cells):
        begun, left = left[: cell.states], left[cell.states :]
        order = "reverse" if layer.go_backwards else "forward"
        sequence, ended = recurrence(graph, x, [cell], order, [begun] if begun else ())  # type: ignore[arg-type]
        ended = [_squeeze(graph, state, axis=0) for state in ended]
        states.extend(ended)
        last = ended[0]
        if layer.return_sequences or number + 1 < len(cells):
            x = _one_direction(graph, sequence)
    return _Answer(x if layer.return_sequences else last, tuple(states))


def _one_node(
    graph: Graph, layer: Any, x: Value, cells: list[Cell], initial: tuple[Sequence[Value], Sequence[Value]]
) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """Both directions in one node: what they give, merged as the layer says, and the states of the one and then of the other."""
    units = cells[0].units
    sequence, last = recurrence(graph, x, cells, "bidirectional", initial if initial[0] else ())
    states: tuple[Value, ...] = ()
    if layer.return_state:
        halves = [_halves(graph, state, axis=0) for state in last]
        states = tuple(half[direction] for direction in (0, 1) for half in halves)
    if layer.merge_mode == "concat":  # a mere reshape
        if not layer.return_sequences:
            swapped = graph.add("Transpose", [last[0]], (None, 2, units), perm=[1, 0, 2])
            shape = graph.integers([0, 2 * units], "shape")
            return (graph.add("Reshape", [swapped, shape], (None, 2 * units)),), states
        swapped = graph.add("Transpose", [sequence], (None, x.shape[1], 2, units), perm=[2, 0, 1, 3])
        shape = graph.integers([0, 0, 2 * units], "shape")
        return (graph.add("Reshape", [swapped, shape], (None, x.shape[1], 2 * units)),), states
    parts = _halves(graph, sequence if layer.return_sequences else last[0], axis=int(layer.return_sequences))
    if layer.return_sequences:
        parts = [graph.add("Transpose", [part], (None, x.shape[1], units), perm=[1, 0, 2]) for part in parts]
    return _merge(graph, layer, parts), states


def _halves(graph: Graph, both: Value, *, axis: int) -> list[Value]:
    """The two directions apart."""
    halves = graph.node("Split", [both], 2, axis=axis, num_outputs=2)
    return [
        _squeeze(graph, Value(half, (*both.shape[:axis], 1, *both.shape[axis + 1 :])), axis=axis) for half in halves
    ]


def _merge(graph: Graph, layer: Any, parts: list[Value]) -> tuple[Value, ...]:
    first, mode = parts[0], layer.merge_mode
    if mode is None:
        return tuple(parts)
    if mode == "concat":
        return (graph.add("Concat", parts, (*first.shape[:-1], sum(part.width for part in parts)), axis=-1),)
    merged = graph.add("Mul" if mode == "mul" else "Add", parts, first.shape)
    return (graph.add("Mul", [merged, graph.constant(0.5, "half")], first.shape) if mode == "ave" else merged,)


def _alone(values: tuple[Value, ...]) -> Written:
    return values[0] if len(values) == 1 else values


def _one_direction(graph: Graph, sequence: Value) -> Value:
    """`[T, 1, B, U]` → `[B, T, U]`."""
    steps = _squeeze(graph, sequence, axis=1)
    return graph.add("Transpose", [steps], (None, sequence.shape[0], sequence.width), perm=[1, 0, 2])


def _squeeze(graph: Graph, x: Value, *, axis: int) -> Value:
    return graph.add("Squeeze", [x, graph.integers([axis], "axes")], (*x.shape[:axis], *x.shape[axis + 1 :]))


def _flip_time(graph: Graph, x: Value) -> Value:
    """`[B, T, U]` with the last step first."""
    bounds = (([-1], "starts"), ([np.iinfo(np.int32).min], "ends"), ([1], "axes"), ([-1], "steps"))
    return graph.add("Slice", [x, *(graph.integers(part, name) for part, name in bounds)], x.shape)
