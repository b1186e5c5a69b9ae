"""ONNX nodes of ConvLSTM over a fixed T, step by step: the engines know no such layer, and a loop would be slow.

The gates that come from the frames are one convolution over all steps; a step adds the convolution of its state, of which the
first has none. Channels stand first from the layer's entry to its exit, so that no step turns them round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers
from numpy.typing import NDArray

from models.export.nodes.activation import activate
from models.export.nodes.graph import Given, Graph, Value, Written, only, refuse, writes

_GATES = 4  # input, forget, cell, output


@writes(layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
def _conv_lstm(graph: Graph, layer: Any, given: Given) -> Written:
    """`[B, T, …, C]` → `[B, T, …, F]`, or its last step `[B, …, F]`; the states beside it where they are asked for."""
    only(given, "sequences", "initial_state", layer=layer)
    x: Value = given["sequences"]
    _check(layer, x)
    cell, count, rank = layer.cell, int(x.shape[1] or 0), x.rank - 3
    sizes = [int(size or 0) for size in x.shape[2:-1]]
    turned = graph.add("Transpose", [x], (count, None, x.width, *sizes), perm=[1, 0, rank + 2, *range(2, rank + 2)])
    rows = graph.add("Reshape", [turned, graph.integers([-1, x.width, *sizes], "rows")], (None, x.width, *sizes))
    bias = [graph.constant(np.asarray(cell.bias), "bias")] if cell.use_bias else []
    pads, sizes = _padding(sizes, cell)
    shape = (None, _GATES * cell.filters, *sizes)
    kernel = graph.constant(_kernel(cell.kernel), "kernel")
    gates = graph.add(
        "Conv", [rows, kernel, *bias], shape, pads=pads, strides=list(cell.strides), dilations=list(cell.dilation_rate)
    )
    steps = [gates.name] if count == 1 else graph.node("Split", [gates], count, axis=0, num_outputs=count)
    states = [_channels_first(graph, state) for state in given.get("initial_state") or ()]
    hidden, carry = states or (None, None)
    recurrent = graph.constant(_kernel(cell.recurrent_kernel), "recurrent_kernel") if count > 1 or states else ""
    around = _same(cell.kernel_size)
    outputs: list[Value] = []
    for step in reversed(steps) if layer.go_backwards else steps:
        total = Value(step, shape)
        if hidden is not None:
            moved = graph.add("Conv", [hidden, recurrent], shape, pads=around)
            total = graph.add("Add", [total, moved], shape)
        hidden, carry = _step(graph, layer, total, carry)
        outputs.append(hidden)
    assert hidden is not None
    assert carry is not None
    result = _sequence(graph, outputs) if layer.return_sequences else _channels_last(graph, hidden)
    if not layer.return_state:
        return result
    last = result if not layer.return_sequences else _channels_last(graph, hidden)
    return result, last, _channels_last(graph, carry)


def _check(layer: Any, x: Value) -> None:
    if layer.stateful:
        raise refuse(layer, "stateful=True", "each clip starts anew: rebuild it with stateful=False")
    if layer.data_format != "channels_last":
        raise refuse(layer, "data_format='channels_first'", "rebuild it with channels_last")
    if None in x.shape[1:]:
        raise refuse(layer, f"an input of {list(x.shape)}", "give the model a fixed number of frames, height and width")


def _step(graph: Graph, layer: Any, total: Value, carry: Value | None) -> tuple[Value, Value]:
    """The next state and carry `[B, F, …]` from the sum of all gates `[B, 4F, …]`."""
    shape = (None, layer.filters, *total.shape[2:])
    i, f, c, o = (Value(name, shape) for name in graph.node("Split", [total], _GATES, axis=1, num_outputs=_GATES))

    def bend(x: Value, function: Any) -> Value:
        return activate(graph, x, function, layer=layer)

    gate, activation = layer.recurrent_activation, layer.activation
    fresh = graph.add("Mul", [bend(i, gate), bend(c, activation)], shape)
    if carry is not None:
        fresh = graph.add("Add", [graph.add("Mul", [bend(f, gate), carry], shape), fresh], shape)
    return graph.add("Mul", [bend(o, gate), bend(fresh, activation)], shape), fresh


def _sequence(graph: Graph, outputs: Sequence[Value]) -> Value:
    """Steps `[B, F, …]` → `[B, T, …, F]`."""
    _, width, *sizes = outputs[0].shape
    count, rank = len(outputs), len(sizes)
    joined = graph.add("Concat", outputs, (None, width, *sizes), axis=0) if count > 1 else outputs[0]
    target = graph.integers([count, -1, *(size or 0 for size in (width, *sizes))], "steps")
    apart = graph.add("Reshape", [joined, target], (count, None, width, *sizes))
    return graph.add("Transpose", [apart], (None, count, *sizes, width), perm=[1, 0, *range(3, rank + 3), 2])


def _channels_first(graph: Graph, x: Value) -> Value:
    return graph.add("Transpose", [x], (None, x.width, *x.shape[1:-1]), perm=[0, x.rank - 1, *range(1, x.rank - 1)])


def _channels_last(graph: Graph, x: Value) -> Value:
    return graph.add("Transpose", [x], (None, *x.shape[2:], x.shape[1]), perm=[0, *range(2, x.rank), 1])


def _kernel(weight: Any) -> NDArray[np.float32]:
    """`[…, C, 4F]` → `[4F, C, …]`."""
    array = np.asarray(weight, np.float32)
    return np.moveaxis(array, (-1, -2), (0, 1))


def _padding(sizes: Sequence[int], cell: Any) -> tuple[list[int], list[int]]:
    """Padding before and after each axis, and the sizes that come out, as TensorFlow has them."""
    parts = []
    for size, kernel, stride, dilation in zip(sizes, cell.kernel_size, cell.strides, cell.dilation_rate, strict=True):
        reach = (kernel - 1) * dilation + 1
        steps = (size - reach) // stride + 1 if cell.padding == "valid" else -(-size // stride)
        total = 0 if cell.padding == "valid" else max((steps - 1) * stride + reach - size, 0)
        parts.append((total // 2, total - total // 2, steps))
    before, after, found = zip(*parts, strict=True)
    return [*before, *after], list(found)


def _same(kernel: Sequence[int]) -> list[int]:
    return [(size - 1) // 2 for size in kernel] + [size // 2 for size in kernel]
