"""ONNX nodes of LSTM, GRU, SimpleRNN and Bidirectional.

Keras orders the gates of an LSTM i, f, c, o and ONNX i, o, f, c; those of a GRU are z, r, h in both. ONNX holds the biases of
input and recurrence one after the other, `[Wb, Rb]`; `reset_after=True` of a Keras GRU is `linear_before_reset=1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.export.nodes import Given, Graph, Value, Written, only, refuse, writes
from models.export.trace import describe

_GATES = {layers.LSTM: ("LSTM", (0, 3, 1, 2)), layers.GRU: ("GRU", (0, 1, 2)), layers.SimpleRNN: ("RNN", (0,))}
# (ONNX name, alpha, beta) of the activations that onnxruntime, OpenVINO and TensorRT all compute inside a recurrence.
_ACTIVATIONS = {
    "sigmoid": ("Sigmoid", 0.0, 0.0),
    "tanh": ("Tanh", 0.0, 0.0),
    "relu": ("Relu", 0.0, 0.0),
    "hard_sigmoid": ("HardSigmoid", 1.0 / 6.0, 0.5),
}


@dataclass(frozen=True, slots=True)
class _Direction:
    """One direction's weights in ONNX's order: W `[G·U, D]`, R `[G·U, U]`, B `[2·G·U]`, and what must be equal in both directions."""

    kernel: NDArray[np.float32]
    recurrent: NDArray[np.float32]
    bias: NDArray[np.float32]
    kind: str
    units: int
    activations: tuple[str, ...]
    linear_before_reset: int

    @property
    def settings(self) -> tuple[object, ...]:
        return self.kind, self.units, self.activations, self.linear_before_reset


@writes(layers.LSTM, layers.GRU, layers.SimpleRNN)
def _recurrent(graph: Graph, layer: Any, given: Given) -> Written:
    only(given, "sequences", layer=layer)
    direction = _read(layer)
    order = "reverse" if layer.go_backwards else "forward"
    sequence, last = _run(graph, given["sequences"], [direction], order)
    if not layer.return_sequences:
        output = _squeeze(graph, last[0], axis=0)
    else:
        output = _one_direction(graph, sequence)
        if layer.go_backwards:  # Keras gives the steps as it computed them, the last frame first
            output = _flip_time(graph, output)
    return (output, *(_squeeze(graph, state, axis=0) for state in last)) if layer.return_state else output


@writes(layers.Bidirectional)
def _bidirectional(graph: Graph, layer: Any, given: Given) -> Written:
    only(given, "sequences", layer=layer)
    if layer.return_state:
        raise refuse(layer, "return_state=True", "use the layer's sequence or its last output")
    for part in (layer.forward_layer, layer.backward_layer):
        if type(part) not in _GATES:
            raise ExportRefused(f"{describe(layer)} wraps {describe(part)}; wrap an LSTM, GRU or SimpleRNN")
    forward, backward = _read(layer.forward_layer), _read(layer.backward_layer)
    x = given["sequences"]
    if forward.settings == backward.settings and not layer.forward_layer.go_backwards:
        return _merge_stacked(graph, layer, *_run(graph, x, [forward, backward], "bidirectional"), units=forward.units)
    parts: list[Value] = []
    for part, direction in ((layer.forward_layer, forward), (layer.backward_layer, backward)):
        sequence, last = _run(graph, x, [direction], "reverse" if part.go_backwards else "forward")
        y = _one_direction(graph, sequence) if layer.return_sequences else _squeeze(graph, last[0], axis=0)
        # Bidirectional flips its second layer's sequence, whichever way that ran.
        flips = layer.return_sequences and part.go_backwards != (part is layer.backward_layer)
        parts.append(_flip_time(graph, y) if flips else y)
    return _merge(graph, layer, parts)


def _merge_stacked(graph: Graph, layer: Any, sequence: Value, last: list[Value], *, units: int) -> Written:
    """`sequence` `[T, 2, B, U]` or the last states `[2, B, U]`, merged as the layer says; concatenation is a mere reshape."""
    if layer.merge_mode == "concat":
        if not layer.return_sequences:
            swapped = graph.add("Transpose", [last[0]], (None, 2, units), perm=[1, 0, 2])
            return graph.add("Reshape", [swapped, graph.integers([0, 2 * units], "shape")], (None, 2 * units))
        swapped = graph.add("Transpose", [sequence], (None, None, 2, units), perm=[2, 0, 1, 3])
        return graph.add("Reshape", [swapped, graph.integers([0, 0, 2 * units], "shape")], (None, None, 2 * units))
    source, axis = (sequence, 1) if layer.return_sequences else (last[0], 0)
    halves = graph.node("Split", [source], 2, axis=axis, num_outputs=2)
    parts = [
        _squeeze(graph, Value(half, (*source.shape[:axis], 1, *source.shape[axis + 1 :])), axis=axis) for half in halves
    ]
    if layer.return_sequences:
        parts = [graph.add("Transpose", [part], (None, None, units), perm=[1, 0, 2]) for part in parts]
    return _merge(graph, layer, parts)


def _merge(graph: Graph, layer: Any, parts: list[Value]) -> Written:
    first, mode = parts[0], layer.merge_mode
    if mode is None:
        return tuple(parts)
    if mode == "concat":
        return graph.add("Concat", parts, (*first.shape[:-1], sum(part.width for part in parts)), axis=-1)
    merged = graph.add("Mul" if mode == "mul" else "Add", parts, first.shape)
    return graph.add("Mul", [merged, graph.constant(0.5, "half")], first.shape) if mode == "ave" else merged


def _read(layer: Any) -> _Direction:
    kind, order = _GATES[type(layer)]
    if layer.stateful:
        raise refuse(layer, "stateful=True", "each clip starts anew: rebuild it with stateful=False")
    cell = layer.cell
    functions = [cell.activation] if kind == "RNN" else [cell.recurrent_activation, cell.activation]
    names = tuple(getattr(function, "__name__", str(function)) for function in functions)
    unknown = [name for name in names if name not in _ACTIVATIONS]
    if unknown:
        raise refuse(layer, f"activation {unknown[0]!r}", f"use one of {', '.join(_ACTIVATIONS)}")
    units, gates = int(cell.units), len(order)

    def gated(weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """`[…, G·U]` in Keras's order of gates → `[G·U, …]` in ONNX's."""
        split = np.split(weights, gates, axis=-1)
        return np.concatenate([split[gate] for gate in order], axis=-1).T

    bias = np.zeros((2, gates * units), np.float32)
    if cell.use_bias:
        stored = np.asarray(cell.bias, np.float32)
        bias[: 1 if stored.ndim == 1 else 2] = stored
    return _Direction(
        kernel=gated(np.asarray(cell.kernel, np.float32)),
        recurrent=gated(np.asarray(cell.recurrent_kernel, np.float32)),
        bias=np.concatenate([gated(bias[0]), gated(bias[1])]),
        kind=kind,
        units=units,
        activations=tuple(names if kind != "LSTM" else (*names, names[-1])),
        linear_before_reset=int(kind == "GRU" and cell.reset_after),
    )


def _run(graph: Graph, x: Value, directions: list[_Direction], order: str) -> tuple[Value, list[Value]]:
    """The node over x `[B, T, D]`: the sequence `[T, dirs, B, U]` and the last states, each `[dirs, B, U]`."""
    first, count = directions[0], len(directions)
    steps = graph.add("Transpose", [x], (None, None, x.width), perm=[1, 0, 2])  # layout 0: TensorRT takes no other
    weights = [
        graph.constant(np.stack([direction.kernel for direction in directions]), "W"),
        graph.constant(np.stack([direction.recurrent for direction in directions]), "R"),
        graph.constant(np.stack([direction.bias for direction in directions]), "B"),
    ]
    known = [_ACTIVATIONS[name] for name in first.activations] * count
    attributes: dict[str, Any] = {
        "hidden_size": first.units,
        "direction": order,
        "activations": [name for name, _, _ in known],
    }
    if any(alpha or beta for _, alpha, beta in known):
        attributes |= {
            "activation_alpha": [alpha for _, alpha, _ in known],
            "activation_beta": [beta for _, _, beta in known],
        }
    if first.kind == "GRU":
        attributes["linear_before_reset"] = first.linear_before_reset
    names = graph.node(first.kind, [steps, *weights], 3 if first.kind == "LSTM" else 2, **attributes)
    return Value(names[0], (None, count, None, first.units)), [
        Value(name, (count, None, first.units)) for name in names[1:]
    ]


def _one_direction(graph: Graph, sequence: Value) -> Value:
    """`[T, 1, B, U]` → `[B, T, U]`."""
    return graph.add("Transpose", [_squeeze(graph, sequence, axis=1)], (None, None, sequence.width), perm=[1, 0, 2])


def _squeeze(graph: Graph, x: Value, *, axis: int) -> Value:
    return graph.add("Squeeze", [x, graph.integers([axis], "axes")], (*x.shape[:axis], *x.shape[axis + 1 :]))


def _flip_time(graph: Graph, x: Value) -> Value:
    """`[B, T, U]` with the last step first."""
    starts, ends, axes, steps = ([-1], [np.iinfo(np.int32).min], [1], [-1])
    return graph.add(
        "Slice",
        [
            x,
            *(
                graph.integers(part, name)
                for part, name in ((starts, "starts"), (ends, "ends"), (axes, "axes"), (steps, "steps"))
            ),
        ],
        x.shape,
    )
