"""Graphs drawn node by node, small enough for NumPy to follow."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.export.runtime import Runtime


class Drawing:
    """A network that grows from `planes` `[N, channels, side, side]`, `frames` `[N, side, side, channels]` / 255.

    With `clips` both have a time, behind N and behind the channels.
    """

    def __init__(self, *, side: int = 8, channels: int = 3, seed: int = 0, clips: bool = False) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, NDArray[np.generic]] = {}
        self._widths = {"planes": channels}
        self._shape: list[int | str] = ["N", "T", side, side, channels] if clips else ["N", side, side, channels]
        values = self.node("Cast", "frames", name="cast", to=TensorProto.FLOAT)
        scaled = self.node("Div", values, self.constant("scale", np.float32(255)), name="scaled")
        self.node("Transpose", scaled, name="turned", out="planes", perm=[0, 4, 1, 2, 3] if clips else [0, 3, 1, 2])

    def constant(self, name: str, values: NDArray[np.generic] | np.generic) -> str:
        self.weights[name] = np.asarray(values)
        return name

    def node(self, kind: str, *inputs: str, name: str, out: str = "", **attributes: object) -> str:
        target = out or f"{name}:0"
        self.nodes.append(helper.make_node(kind, list(inputs), [target], name=f"{name}/{kind}", **attributes))
        if inputs[0] in self._widths:
            self._widths[target] = self._widths[inputs[0]]
        return target

    def conv(
        self,
        source: str,
        width: int,
        *,
        name: str,
        kernel: NDArray[np.float32] | None = None,
        size: int = 3,
        stride: int = 1,
        group: int = 1,
        bias: bool = True,
        rank: int = 2,
    ) -> str:
        inputs = self._widths[source] // group
        if kernel is None:
            fan = inputs * size**rank
            kernel = self.random.normal(0, np.sqrt(2 / fan), (width, inputs, *[size] * rank)).astype(np.float32)
        names = [self.constant(f"{name}/kernel", kernel)]
        if bias:
            names.append(self.constant(f"{name}/bias", self.random.normal(0, 0.1, width).astype(np.float32)))
        target = self.node(
            "Conv", source, *names, name=name, strides=[stride] * rank, pads=[size // 2] * (2 * rank), group=group
        )
        self._widths[target] = width
        return target

    def relu(self, source: str, *, name: str) -> str:
        return self.node("Relu", source, name=name)

    def clip(self, source: str, *, name: str, most: float) -> str:
        ends = (self.constant(f"{name}/least", np.float32(0)), self.constant(f"{name}/most", np.float32(most)))
        return self.node("Clip", source, *ends, name=name)

    def flat(self, source: str, *, size: int, width: int, out: str = "features") -> str:
        """Means of blocks of `size` × `size` pixels, as `width` numbers."""
        pooled = self.node("AveragePool", source, name="pool", kernel_shape=[size] * 2, strides=[size] * 2)
        shape = self.constant("flat/shape", np.array([-1, width], np.int64))
        return self.node("Reshape", pooled, shape, name="flat", out=out)

    def model(self, **outputs: list[int | str]) -> onnx.ModelProto:
        """The graph with these outputs, checked."""
        graph = helper.make_graph(
            self.nodes,
            "drawn",
            [helper.make_tensor_value_info("frames", TensorProto.UINT8, self._shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(values, name) for name, values in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def mean_head(dense: NDArray[np.float32], bias: NDArray[np.float32]) -> onnx.ModelProto:
    """The softmax of `dense` `[D, K]` on the mean of the features `[B, T, D]` over time."""
    (depth, classes), value = dense.shape, helper.make_tensor_value_info
    weights = {"dense": dense, "bias": bias, "time": np.array([1], np.int64)}
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["features", "time"], ["mean"], name="mean/ReduceMean", keepdims=0),
            helper.make_node("Gemm", ["mean", "dense", "bias"], ["logits"], name="decides/Gemm"),
            helper.make_node("Softmax", ["logits"], ["probabilities"], name="decides/Softmax", axis=-1),
        ],
        "head",
        [value("features", TensorProto.FLOAT, ["B", "T", depth])],
        [value("probabilities", TensorProto.FLOAT, ["B", classes])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def weights_of(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def tensors(model: onnx.ModelProto, rows: NDArray[np.uint8], *names: str) -> dict[str, NDArray[np.float32]]:
    """What the tensors `names` hold on `rows`, all at once."""
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    given = {value.name for value in shown.graph.output}
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in given)
    return Runtime(shown)(rows)


def frames_of(count: int, *, side: int = 8, channels: int = 3, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), np.uint8)
