"""ONNX nodes of convolutions and pools over time, padding and cropping: what temporal convolution networks are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers
from numpy.typing import NDArray

from models.export.nodes.activation import activate
from models.export.nodes.graph import Given, Graph, Value, refuse, writes


@writes(layers.Conv1D)
def _conv(graph: Graph, layer: Any, given: Given) -> Value:
    kernel = np.asarray(layer.kernel).transpose(2, 1, 0)  # [K, C/groups, F] → [F, C/groups, K]
    x = _turn(graph, _lead(graph, layer, given["inputs"]))
    return _finish(graph, layer, _convolve(graph, layer, x, kernel, groups=layer.groups))


@writes(layers.DepthwiseConv1D)
def _depthwise(graph: Graph, layer: Any, given: Given) -> Value:
    x = _lead(graph, layer, given["inputs"])
    kernel = _by_channel(np.asarray(layer.kernel))
    return _finish(graph, layer, _convolve(graph, layer, _turn(graph, x), kernel, groups=x.width))


@writes(layers.SeparableConv1D)
def _separable(graph: Graph, layer: Any, given: Given) -> Value:
    x = _lead(graph, layer, given["inputs"])
    y = _convolve(graph, layer, _turn(graph, x), _by_channel(np.asarray(layer.depthwise_kernel)), groups=x.width)
    point = np.asarray(layer.pointwise_kernel).transpose(2, 1, 0)
    weights = graph.constant(point, "pointwise")
    return _finish(graph, layer, graph.add("Conv", [y, weights], (None, point.shape[0], y.shape[2])))


@writes(layers.MaxPooling1D, layers.AveragePooling1D)
def _pool(graph: Graph, layer: Any, given: Given) -> Value:
    _channels_last(layer)
    x = _turn(graph, given["inputs"])
    size, stride = int(layer.pool_size[0]), int(layer.strides[0])
    maximum = isinstance(layer, layers.MaxPooling1D)
    shape = (*x.shape[:2], _length(x.shape[2], size, stride, same=layer.padding == "same"))
    padding = {"auto_pad": "SAME_UPPER" if layer.padding == "same" else "VALID"}
    pooled = graph.add(
        "MaxPool" if maximum else "AveragePool", [x], shape, kernel_shape=[size], strides=[stride], **padding
    )
    return _turn(graph, pooled)


@writes(layers.Cropping1D)
def _crop(graph: Graph, layer: Any, given: Given) -> Value:
    x: Value = given["inputs"]
    start, end = layer.cropping
    stop = -int(end) if end else int(np.iinfo(np.int32).max)
    bounds = [graph.integers([value], name) for value, name in ((int(start), "starts"), (stop, "ends"), (1, "axes"))]
    length = None if x.shape[1] is None else x.shape[1] - start - end
    return graph.add("Slice", [x, *bounds], (None, length, x.width))


@writes(layers.ZeroPadding1D)
def _pad(graph: Graph, layer: Any, given: Given) -> Value:
    _channels_last(layer)
    return _padded(graph, given["inputs"], *map(int, layer.padding), axis=1)


@writes(layers.UpSampling1D)
def _repeat_steps(graph: Graph, layer: Any, given: Given) -> Value:
    """Each step `size` times, one after the other."""
    x: Value = given["inputs"]
    size = int(layer.size)
    apart = graph.add("Unsqueeze", [x, graph.integers([2], "axes")], (None, x.shape[1], 1, x.width))
    wide = graph.add("Concat", [apart] * size, (None, x.shape[1], size, x.width), axis=2)
    length = None if x.shape[1] is None else x.shape[1] * size
    return graph.add("Reshape", [wide, graph.integers([0, -1, x.width], "shape")], (None, length, x.width))


def _lead(graph: Graph, layer: Any, x: Value) -> Value:
    """`x` with the zeros before it that a causal layer wants."""
    _channels_last(layer)
    if layer.padding != "causal":
        return x
    return _padded(graph, x, int(layer.dilation_rate[0]) * (int(layer.kernel_size[0]) - 1), 0, axis=1)


def _padded(graph: Graph, x: Value, before: int, after: int, *, axis: int) -> Value:
    places = [0] * (2 * x.rank)
    places[axis], places[x.rank + axis] = before, after
    size = x.shape[axis]
    shape = (*x.shape[:axis], None if size is None else size + before + after, *x.shape[axis + 1 :])
    return graph.add("Pad", [x, graph.integers(places, "pads")], shape)


def _convolve(graph: Graph, layer: Any, x: Value, kernel: NDArray[Any], *, groups: int) -> Value:
    """X `[B, C, T]` with kernel `[F, C/groups, K]`; a padding that depends on T is ONNX's own."""
    size, stride, dilation = (int(part[0]) for part in (layer.kernel_size, layer.strides, layer.dilation_rate))
    reach = dilation * (size - 1)
    same = layer.padding == "same"
    options: dict[str, Any] = {"strides": [stride], "dilations": [dilation], "group": int(groups)}
    if same and stride == 1:
        options["pads"] = [reach // 2, reach - reach // 2]
    elif same:
        options["auto_pad"] = "SAME_UPPER"
    shape = (None, kernel.shape[0], _length(x.shape[2], reach + 1, stride, same=same))
    return graph.add("Conv", [x, graph.constant(kernel, "kernel")], shape, kernel_shape=[size], **options)


def _finish(graph: Graph, layer: Any, y: Value) -> Value:
    """`[B, F, T]` → `[B, T, F]` with bias and activation."""
    y = _turn(graph, y)
    if layer.use_bias:
        y = graph.add("Add", [y, graph.constant(np.asarray(layer.bias), "bias")], y.shape)
    return activate(graph, y, layer.activation, layer=layer)


def _turn(graph: Graph, x: Value) -> Value:
    return graph.add("Transpose", [x], (None, x.shape[2], x.shape[1]), perm=[0, 2, 1])


def _by_channel(kernel: NDArray[Any]) -> NDArray[Any]:
    """Keras's depthwise kernel `[K, C, M]` → `[C·M, 1, K]`."""
    return kernel.reshape(kernel.shape[0], 1, -1).transpose(2, 1, 0)


def _channels_last(layer: Any) -> None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise refuse(layer, f"data_format = {layer.data_format!r}", "use channels_last")


def _length(size: int | None, window: int, stride: int, *, same: bool) -> int | None:
    if size is None:
        return None
    return -(-size // stride) if same else (size - window) // stride + 1
