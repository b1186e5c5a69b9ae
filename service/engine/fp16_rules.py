"""Which nodes of a graph may run in half precision: products do, what sums or exponentiates does not, the rest follows its inputs.

The rule is that of mixed-precision training: where half and float meet, the wider type wins until the next product. So a
difference of features or a hand-written normalisation stays float32 from its first mean to its last division.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Where the time goes: tensor cores take half and sum in float32.
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "QuantizeLinear"}
# Sums over many elements, variances, exponentials and their like: half ends at 65504 and holds 11 bits.
_WIDE = {
    "BatchNormalization", "CumSum", "Erf", "Exp", "Gelu", "GlobalAveragePool", "GlobalLpPool", "GroupNormalization",
    "InstanceNormalization", "LRN", "LayerNormalization", "Log", "LogSoftmax", "LpNormalization", "LpPool",
    "MeanVarianceNormalization", "Mish", "Pow", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax", "Softplus", "Sqrt",
}  # fmt: skip
_SCORED = {"Softmax", "LogSoftmax"}
# They move values about, and so move them in whatever type their readers want.
_MOVES = {
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
_LARGEST, _SMALLEST = 65504.0, 2.0**-14  # of half's normal numbers
# The smallest scale that half holds within 1 part in 256, which is less than INT8 rounds itself.
SMALLEST_SCALE = 2.0**-17


def half_nodes(
    nodes: list[Any],
    constants: dict[str, NDArray[Any]],
    *,
    floats: set[str],
    results: set[str],
    takes: Callable[[Any], bool],
) -> set[int]:
    """The places in `nodes`, which are in the order of the graph, of those that run in half.

    `floats`: the tensors that are float32 now, `results` those that the graph gives; `takes`: whether ONNX allows a node half.
    """
    scores = _scores(nodes)
    scales = {node.output[0]: node for node in nodes if node.op_type == "DequantizeLinear"}
    half, wide = set[int](), set(floats) - set(constants) - set(scales)  # wide: tensors that are float32 in the end
    for place, node in enumerate(nodes):
        read = [name for name in node.input if name in floats]
        if not read or node.op_type in ("Cast", "DequantizeLinear"):
            continue
        fits = all(_fits(name, node, constants, scales) for name in read)
        squares = node.op_type == "Mul" and node.input[0] == node.input[1]
        if not fits or squares or node.op_type in _WIDE or place in scores or not takes(node):
            continue
        given = [name for name in read if name not in constants and name not in scales]
        free = given or any(name in scales for name in read)
        if node.op_type in _PRODUCTS or (free and wide.isdisjoint(given)):
            half.add(place)
            wide.difference_update(node.output)
    return half | _moved(nodes, half, floats - results, constants)


def _moved(nodes: list[Any], half: set[int], floats: set[str], constants: dict[str, NDArray[Any]]) -> set[int]:
    """Moves of float32 that only half reads: cast first, they move half as many bytes."""
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, []).append(place)
    found = set[int]()
    for place, node in reversed(list(enumerate(nodes))):
        if place in half or node.op_type not in _MOVES or node.output[0] not in floats:
            continue
        after = [reader for name in node.output for reader in readers.get(name, ())]
        if after and half.union(found).issuperset(after) and all(fits(constants.get(name)) for name in node.input):
            found.add(place)
    return found


def _scores(nodes: list[Any]) -> set[int]:
    """The products whose result a softmax turns into probabilities: an error there is a relative error of a probability."""
    made = {name: place for place, node in enumerate(nodes) for name in node.output}
    found, seen = set[int](), set[int]()
    waiting = [name for node in nodes if node.op_type in _SCORED for name in node.input]
    while waiting:
        place = made.get(waiting.pop())
        if place is None or place in seen:
            continue
        seen.add(place)
        if nodes[place].op_type in ("MatMul", "Gemm"):
            found.add(place)
        elif nodes[place].op_type not in _PRODUCTS:
            waiting.extend(nodes[place].input)
    return found


def _fits(name: str, node: Any, constants: dict[str, NDArray[Any]], scales: dict[str, Any]) -> bool:
    back = scales.get(name)
    if back is not None:  # weights may be quantized anew to a larger scale, activations may not
        return fits_scale(constants[back.input[1]], weights=back.input[0] in constants)
    if node.op_type == "QuantizeLinear" and name in constants:
        return fits_scale(constants[name], weights=False)
    return fits(constants.get(name))


def fits(constant: NDArray[Any] | None) -> bool:
    """Whether half holds it: nothing beyond its range, and not all of it so small that bits are lost. Infinities are held."""
    if constant is None or constant.dtype != np.float32:
        return True
    sizes = np.abs(constant[np.isfinite(constant)])
    largest = float(sizes.max(initial=0))
    return largest <= _LARGEST and (largest == 0 or largest >= _SMALLEST)


def fits_scale(scale: NDArray[Any], *, weights: bool) -> bool:
    """As `fits`, for every single one of the scales."""
    return bool((scale <= _LARGEST).all() and (weights or (scale >= SMALLEST_SCALE).all()))
