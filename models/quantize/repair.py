"""Two repairs of a network that loses too much in INT8; both leave the float function as it is.

Equalization: one channel far above the others makes the range of all of them wide. Behind a ReLU, or nothing, a channel may be divided by
any s > 0 if the weights that read it are multiplied by s (Nagel et al. 2019). Here s comes from what channels reach on calibration frames and is
a power of two, so that not one bit of the float answers changes.

Bias correction: rounded weights shift the mean of what a convolution gives, the more the fewer weights it sums; the shift on the calibration
frames' means is taken from the bias (same paper).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.export.report.cost import attribute
from models.quantize.observe import Observed

# Beyond this a channel says nothing, or everything; more would only move rounding elsewhere.
_MOST = 2.0**12


def equalized(wide: onnx.ModelProto, observed: Mapping[str, Observed]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy of `wide` with the channels between two convolutions made alike where `observed` knows them, and the first of each such pair."""
    changed = onnx.ModelProto.FromString(wide.SerializeToString())
    graph = _Graph(changed.graph)
    names = []
    for node in changed.graph.node:
        pair = graph.behind(node)
        if pair is None or pair[0] not in observed:
            continue
        tensor, readers = pair
        factors = _factors(observed[tensor].peaks, [graph.value(reader.input[1]) for reader in readers])
        if factors is None or (factors == 1).all():
            continue
        graph.scale(node.input[1], 1 / factors, axis=0)
        if len(node.input) > 2:
            graph.scale(node.input[2], 1 / factors, axis=0)
        for reader in readers:
            graph.scale(reader.input[1], factors, axis=0 if graph.depthwise(reader) else 1)
        names.append(str(node.name))
    return changed, tuple(names)


def bias_corrected(
    quantized: onnx.ModelProto, wide: onnx.ModelProto, observed: Mapping[str, Observed]
) -> onnx.ModelProto:
    """A copy of `quantized`, made from `wide`, with the mean error of each INT8 convolution taken from its bias."""
    changed = onnx.ModelProto.FromString(quantized.SerializeToString())
    made = {output: node for node in changed.graph.node for output in node.output}
    held = {tensor.name: tensor for tensor in changed.graph.initializer}
    floats = {tensor.name: tensor for tensor in wide.graph.initializer}
    before = {node.name: node for node in wide.graph.node}
    for node in changed.graph.node:
        back = made.get(node.input[1]) if node.op_type == "Conv" else None
        source = before.get(node.name)
        if back is None or source is None or source.input[0] not in observed or len(node.input) < 3:
            continue
        exact = numpy_helper.to_array(floats[source.input[1]])
        levels, scale = (numpy_helper.to_array(held[name]) for name in back.input[:2])
        if levels.shape != exact.shape or node.input[2] not in held:
            continue
        error = levels * scale.reshape(-1, *[1] * (levels.ndim - 1)) - exact
        sums = error.reshape(*error.shape[:2], -1).sum(axis=2, dtype=np.float64)  # [out, in of a group]
        means = observed[source.input[0]].means.reshape(attribute(node, "group", 1), -1)  # [groups, in of a group]
        shift = (sums * np.repeat(means, len(sums) // len(means), axis=0)).sum(axis=1)
        bias = numpy_helper.to_array(held[node.input[2]]).astype(np.float64) - shift
        held[node.input[2]].CopyFrom(numpy_helper.from_array(bias.astype(np.float32), node.input[2]))
    return changed


class _Graph:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._held = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def behind(self, node: onnx.NodeProto) -> tuple[str, Sequence[onnx.NodeProto]] | None:
        """What `node`, a convolution of its own weights, gives to other such convolutions alone, over a ReLU or nothing; and these."""
        if node.op_type != "Conv" or not self._own(node.input[1:]):
            return None
        tensor = node.output[0]
        after = self._readers.get(tensor, [])
        if len(after) == 1 and after[0].op_type == "Relu" and tensor not in self._outputs:
            tensor = after[0].output[0]
            after = self._readers.get(tensor, [])
        fits = all(
            reader.op_type == "Conv"
            and reader.input[0] == tensor
            and self._own(reader.input[1:2])
            and (attribute(reader, "group", 1) == 1 or self.depthwise(reader))
            for reader in after
        )
        return (tensor, after) if after and fits and tensor not in self._outputs else None

    def depthwise(self, node: onnx.NodeProto) -> bool:
        """Whether each channel has one kernel, which reads no other."""
        outputs, inputs = self._held[node.input[1]].dims[:2]
        return bool(attribute(node, "group", 1) == outputs > inputs == 1)

    def value(self, name: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = numpy_helper.to_array(self._held[name])
        return found

    def scale(self, name: str, factors: NDArray[np.float64], *, axis: int) -> None:
        values = self.value(name)
        shaped = factors.reshape([-1 if place == axis else 1 for place in range(values.ndim)])
        self._held[name].CopyFrom(numpy_helper.from_array((values * shaped).astype(np.float32), name))

    def _own(self, names: Iterable[str]) -> bool:
        """Constant, and read by nothing else."""
        return all(name in self._held and len(self._readers[name]) == 1 for name in names)


def _factors(peaks: NDArray[np.float64], weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float64] | None:
    """Powers of two that make the channels' peaks, and the weights that read them, as alike as one factor for both can."""
    columns = np.zeros_like(peaks)
    for kernel in weights:
        sizes = np.abs(kernel).reshape(*kernel.shape[:2], -1).max(axis=2)
        columns = np.maximum(columns, sizes[:, 0] if _of_channels(kernel, peaks) else sizes.max(axis=0))
    alive = (peaks > 0) & (columns > 0)
    if not alive.any():
        return None
    wanted = np.ones_like(peaks)
    # Where every kernel has a scale for each channel of its own, it can take any factor.
    free = all(_of_channels(kernel, peaks) for kernel in weights)
    wanted[alive] = peaks[alive] if free else np.sqrt(peaks[alive] / columns[alive])
    wanted[alive] /= np.exp(np.log(wanted[alive]).mean())
    factors: NDArray[np.float64] = np.exp2(np.round(np.log2(np.clip(wanted, 1 / _MOST, _MOST))))
    return factors


def _of_channels(kernel: NDArray[np.float32], peaks: NDArray[np.float64]) -> bool:
    return bool(kernel.shape[0] == len(peaks) > kernel.shape[1] == 1)
