"""LSTM, GRU and RNN nodes from the weights of Keras's cells.

Keras orders the gates of an LSTM i, f, c, o and ONNX i, o, f, c; those of a GRU are z, r, h in both. ONNX holds the biases of
input and recurrence one after the other, `[Wb, Rb]`; `reset_after=True` of a Keras GRU is `linear_before_reset=1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from keras import layers
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.export.model.trace import describe
from models.export.nodes.graph import Graph, Value, refuse
from models.files.keras2_functions import hard_sigmoid_of_keras_2

Order = Literal["forward", "reverse", "bidirectional"]
_GATES = {
    layers.LSTMCell: ("LSTM", (0, 3, 1, 2)),
    layers.GRUCell: ("GRU", (0, 1, 2)),
    layers.SimpleRNNCell: ("RNN", (0,)),
}
# (ONNX name, alpha, beta) of the activations that onnxruntime and TensorRT compute inside a recurrence; elu, exponential and
# linear TensorRT does not.
_ACTIVATIONS = {
    "sigmoid": ("Sigmoid", 0.0, 0.0),
    "tanh": ("Tanh", 0.0, 0.0),
    "relu": ("Relu", 0.0, 0.0),
    "hard_sigmoid": ("HardSigmoid", 1.0 / 6.0, 0.5),
    hard_sigmoid_of_keras_2.__name__: ("HardSigmoid", 0.2, 0.5),
    "leaky_relu": ("LeakyRelu", 0.2, 0.0),
    "softsign": ("Softsign", 0.0, 0.0),
    "softplus": ("Softplus", 0.0, 0.0),
}
# Those that OpenVINO runs, too, and that take neither alpha nor beta.
_EVERYWHERE = ("sigmoid", "tanh", "relu")
_PLAIN = (*_EVERYWHERE, "softsign", "softplus")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's weights in ONNX's order: W `[G·U, D]`, R `[G·U, U]`, B `[2·G·U]`, and what both directions of a node must share."""

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

    @property
    def states(self) -> int:
        """How many states the cell has: output and memory of an LSTM, the output of others."""
        return 2 if self.kind == "LSTM" else 1


def cells_of(layer: Any) -> list[Any]:
    """The cells of a recurrent layer, from its input on; raises ExportRefused for one of the user's own, or a kept state."""
    if layer.stateful:
        raise refuse(layer, "stateful=True", "each clip starts anew: rebuild it with stateful=False")
    cells = list(layer.cell.cells) if isinstance(layer.cell, layers.StackedRNNCells) else [layer.cell]
    for cell in cells:
        if type(cell) not in _GATES:
            raise ExportRefused(
                f"{describe(layer)} runs the cell {type(cell).__name__}, which has no ONNX node; use LSTMCell, GRUCell or SimpleRNNCell"
            )
    return cells


def read_cell(cell: Any, *, layer: Any) -> Cell:
    """`cell` for ONNX; raises ExportRefused, naming `layer`, for an activation that the engines do not compute in a recurrence."""
    kind, order = _GATES[type(cell)]
    names = activation_names(cell)
    unknown = [name for name in names if name not in _ACTIVATIONS]
    if unknown:
        raise refuse(layer, f"activation {unknown[0]!r}", f"use one of {', '.join(_ACTIVATIONS)}")
    if len({_ACTIVATIONS[name] for name in names}.difference(_ACTIVATIONS[name] for name in _PLAIN)) > 1:
        raise refuse(
            layer, f"activations {' and '.join(names)} in one cell", f"use at most one beside {', '.join(_PLAIN)}"
        )
    units, gates = int(cell.units), len(order)

    def gated(weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """`[…, G·U]` in Keras's order of gates → `[G·U, …]` in ONNX's."""
        split = np.split(weights, gates, axis=-1)
        return np.concatenate([split[gate] for gate in order], axis=-1).T

    bias = np.zeros((2, gates * units), np.float32)
    if cell.use_bias:
        stored = np.asarray(cell.bias, np.float32)
        bias[: 1 if stored.ndim == 1 else 2] = stored
    return Cell(
        kernel=gated(np.asarray(cell.kernel, np.float32)),
        recurrent=gated(np.asarray(cell.recurrent_kernel, np.float32)),
        bias=np.concatenate([gated(bias[0]), gated(bias[1])]),
        kind=kind,
        units=units,
        activations=names if kind != "LSTM" else (*names, names[-1]),
        linear_before_reset=int(kind == "GRU" and cell.reset_after),
    )


def activation_names(cell: Any) -> tuple[str, ...]:
    """The activations of a cell as ONNX orders them: of the gates, then of the output."""
    functions = (
        [cell.activation] if isinstance(cell, layers.SimpleRNNCell) else [cell.recurrent_activation, cell.activation]
    )
    return tuple(getattr(function, "__name__", str(function)) for function in functions)


def not_everywhere(layer: Any) -> str | None:
    """A sentence where an engine lacks an activation of the recurrent `layer`, None where all run it."""
    parts = [layer.forward_layer, layer.backward_layer] if isinstance(layer, layers.Bidirectional) else [layer]
    held = [getattr(part, "cell", None) for part in parts]
    cells = [cell for part in held for cell in getattr(part, "cells", [part]) if type(cell) in _GATES]
    odd = sorted({name for cell in cells for name in activation_names(cell)}.difference(_EVERYWHERE))
    if not odd:
        return None
    return (
        f"{describe(layer)} computes {', '.join(odd)} in its recurrence, which OpenVINO cannot: on a CPU the server runs this bundle in "
        f"onnxruntime; train with {', '.join(_EVERYWHERE)} for OpenVINO"
    )


def recurrence(
    graph: Graph, x: Value, cells: Sequence[Cell], order: Order, initial: Sequence[Sequence[Value]] = ()
) -> tuple[Value, list[Value]]:
    """One node over x `[B, T, D]` with a cell for each direction: the sequence `[T, dirs, B, U]` and the last states, each `[dirs, B, U]`.

    `initial`: for each direction the states to begin with, each `[B, U]`.
    """
    first, count = cells[0], len(cells)
    steps = graph.add(
        "Transpose", [x], (x.shape[1], None, x.width), perm=[1, 0, 2]
    )  # layout 0: TensorRT takes no other
    inputs: list[Value | str] = [
        steps,
        graph.constant(np.stack([cell.kernel for cell in cells]), "W"),
        graph.constant(np.stack([cell.recurrent for cell in cells]), "R"),
        graph.constant(np.stack([cell.bias for cell in cells]), "B"),
    ]
    if initial:
        begun = [_abreast(graph, [states[place] for states in initial]) for place in range(first.states)]
        inputs += ["", *begun]  # the lengths of the sequences are left out
    known = [_ACTIVATIONS[name] for name in first.activations] * count
    attributes: dict[str, Any] = {
        "hidden_size": first.units,
        "direction": order,
        "activations": [name for name, _, _ in known],
    }
    # onnxruntime deals alpha and beta out to those activations that take one, others to each in turn: all get the same.
    for alpha, beta in {(alpha, beta) for _, alpha, beta in known if alpha or beta}:
        attributes |= {"activation_alpha": [alpha] * len(known), "activation_beta": [beta] * len(known)}
    if first.kind == "GRU":
        attributes["linear_before_reset"] = first.linear_before_reset
    names = graph.node(first.kind, inputs, 1 + first.states, **attributes)
    return Value(names[0], (x.shape[1], count, None, first.units)), [
        Value(name, (count, None, first.units)) for name in names[1:]
    ]


def _abreast(graph: Graph, states: Sequence[Value]) -> Value:
    """States `[B, U]` of each direction as one `[dirs, B, U]`."""
    axis = graph.integers([0], "axes")
    raised = [graph.add("Unsqueeze", [state, axis], (1, None, state.width)) for state in states]
    return raised[0] if len(raised) == 1 else graph.add("Concat", raised, (len(raised), None, states[0].width), axis=0)
