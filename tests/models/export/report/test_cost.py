"""MACs and parameters of known networks are the known ones; every kind of node is counted by its definition."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.errors import ExportRefused
from models.export.half import halve
from models.export.report.cost import graph_cost
from models.export.report.shapes import shapes_of
from service.bundle.store import find_bundles, open_bundle


class Net:
    """A CNN layer by layer, its weights without values: costs come from shapes."""

    def __init__(self, channels: int = 3) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.at, self.channels = "frames", channels

    def weight(self, *dims: int) -> str:
        self.weights.append(TensorProto(name=f"w{len(self.weights)}", data_type=TensorProto.FLOAT, dims=dims))
        return str(self.weights[-1].name)

    def add(self, kind: str, inputs: Sequence[str], **attributes: object) -> str:
        self.at = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, inputs, [self.at], name=f"layer{len(self.nodes)}/{kind}", **attributes)
        )
        return self.at

    def conv(self, width: int, size: int, stride: int = 1, *, groups: int = 1) -> str:
        read = self.weight(width, self.channels // groups, size, size), self.weight(width)
        self.channels = width
        pads = [size // 2] * 4
        return self.add("Conv", [self.at, *read], strides=[stride] * 2, pads=pads, group=groups)

    def conv3d(self, width: int) -> str:
        read = self.weight(width, self.channels, 3, 3, 3), self.weight(width)
        self.channels = width
        return self.add("Relu", [self.add("Conv", [self.at, *read], pads=[1] * 6)])

    def finish(self, classes: int) -> onnx.ModelProto:
        self.add("Flatten", [self.add("GlobalAveragePool", [self.at])])
        self.add("Gemm", [self.at, self.weight(self.channels, classes), self.weight(classes)])
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["N", 3, 224, 224])],
            [helper.make_tensor_value_info(self.at, TensorProto.FLOAT, ["N", classes])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def resnet50() -> onnx.ModelProto:
    """He et al. 2015, with the stride in the 3 × 3 as everybody has it now; BatchNorm folded."""
    net = Net()
    net.conv(64, 7, 2)
    net.add("MaxPool", [net.at], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for width, blocks, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(blocks):
            skip, channels = net.at, net.channels
            stride = first if number == 0 else 1
            net.conv(width, 1), net.conv(width, 3, stride)
            main = net.conv(4 * width, 1)
            if number == 0:
                net.at, net.channels = skip, channels
                skip = net.conv(4 * width, 1, stride)
            net.add("Add", [main, skip])
    return net.finish(1000)


def mobilenet_v2() -> onnx.ModelProto:
    """Sandler et al. 2018, table 2: expansion, width, repeats, stride."""
    net = Net()
    net.conv(32, 3, 2)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, width, repeats, first in table:
        for number in range(repeats):
            if expansion > 1:
                net.conv(net.channels * expansion, 1)
            net.conv(net.channels, 3, 1 if number else first, groups=net.channels)
            net.conv(width, 1)
    net.conv(1280, 1)
    return net.finish(1000)


@pytest.mark.parametrize(
    ("build", "macs", "parameters"),
    [(resnet50, 4.09e9, 25_557_032 - 26_560), (mobilenet_v2, 0.301e9, 3_504_872 - 17_056)],
)
def test_known_networks_cost_what_is_known_of_them(build: object, macs: float, parameters: int) -> None:
    """The parameters as published; a BatchNorm has two a channel, and leaves one bias where it is folded."""
    assert callable(build)
    cost = graph_cost(build(), sizes={"N": 1})
    assert cost.macs == pytest.approx(macs, rel=2e-3)
    assert cost.parameters == parameters


def test_a_batch_costs_as_many_times_as_much_and_weighs_the_same() -> None:
    one, four = (graph_cost(mobilenet_v2(), sizes={"N": rows}) for rows in (1, 4))
    assert (four.macs, four.parameters) == (4 * one.macs, one.parameters)


def test_the_shipped_encoder_costs_the_same_in_float_and_in_int8_and_its_parameters_are_those_of_keras() -> None:
    bundle = next(open_bundle(path) for path in find_bundles(()) if path.name == "imagenet")
    layers = json.loads((bundle.path / "report.json").read_text())["export"]["encoder_layers"]
    for role in ("encoder", "encoder.int8"):
        cost = graph_cost(onnx.load(bundle.file(role)), sizes={"N": 1})
        # EfficientNet-Lite0 by its table of widths and strides, without its last product of 1280 × 1000.
        assert cost.macs == 383_907_552
        assert cost.parameters == sum(layer["weights"] for layer in layers)


def counted(text: str, **sizes: int) -> tuple[int, int]:
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]> ' + text)
    cost = graph_cost(model, sizes=sizes)
    return cost.macs, cost.parameters


@pytest.mark.parametrize(
    ("text", "macs", "parameters"),
    [
        # [2, 6, 8, 8] from 4 channels in 2 groups by 3 × 3: 2·6·64 values of 2·9 products.
        ("g (float[N,4,8,8] x, float[6,2,3,3] w) => (float[N,6,8,8] y) { y = Conv<group = 2, pads = [1,1,1,1]>(x, w) }", 13824, 0),
        # 3D: [2, 5, 4, 8, 8] from 3 channels by 3 × 3 × 3.
        ("g (float[N,3,4,8,8] x, float[5,3,3,3,3] w) => (float[N,5,4,8,8] y) { y = Conv<pads = [1,1,1,1,1,1]>(x, w) }", 207360, 0),
        ("g (float[N,3,4,4] x, float[3,5,2,2] w) => (float[N,5,8,8] y) { y = ConvTranspose<strides = [2,2]>(x, w) }", 1920, 0),
        ("g (float[N,7] x, float[7,5] w) => (float[N,5] y) { y = MatMul(x, w) }", 70, 0),
        ("g (float[7,N] x, float[5,7] w) => (float[N,5] y) { y = Gemm<transA = 1, transB = 1>(x, w) }", 70, 0),
        ('g (float[N,3,4] x, float[4,6] w) => (float[N,3,6] y) { y = Einsum<equation = "btd,dk->btk">(x, w) }', 144, 0),
        # Both directions: 16 steps of 2 rows, 4 gates of 5 units from 3 inputs and 5 states.
        ('g (float[16,N,3] x, float[2,20,3] w, float[2,20,5] r) => (y) { y = LSTM<hidden_size = 5, direction = "bidirectional">(x, w, r) }', 10240, 0),
        ("g (float[16,N,3] x, float[1,15,3] w, float[1,15,5] r) => (y) { y = GRU<hidden_size = 5>(x, w, r) }", 3840, 0),
        ("g (float[16,N,3] x, float[1,5,3] w, float[1,5,5] r) => (y) { y = RNN<hidden_size = 5>(x, w, r) }", 1280, 0),
        ("g (float[N,7] x) => (float[N,7] y) <float[7] b = {1,2,3,4,5,6,7}, float s = {2}> { z = Mul(x, s) y = Add(z, b) }", 0, 7),
    ],
)  # fmt: skip
def test_each_kind_of_node_is_counted_by_its_definition(text: str, macs: int, parameters: int) -> None:
    assert counted(text, N=2) == (macs, parameters)


def recurrent(bias: np.ndarray) -> onnx.ModelProto:
    weights = {"W": np.ones((1, 20, 3)), "R": np.ones((1, 20, 5)), "B": bias}
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], name="lstm/LSTM", hidden_size=5)],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", 1, "B", 5])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_the_second_bias_of_an_lstm_that_is_all_zeros_is_no_parameter() -> None:
    one, two = np.ones((1, 40)), np.ones((1, 40))
    one[:, 20:] = 0
    assert graph_cost(recurrent(one), sizes={"T": 2, "B": 1}).parameters == 4 * 5 * (3 + 5 + 1)
    assert graph_cost(recurrent(two), sizes={"T": 2, "B": 1}).parameters == 4 * 5 * (3 + 5 + 2)


def test_weights_stored_in_half_precision_count_with_the_layer_that_reads_them() -> None:
    model = halve(recurrent(np.zeros((1, 40))))
    assert any(node.op_type == "Cast" for node in model.graph.node)
    (lstm,) = graph_cost(model, sizes={"T": 2, "B": 1}).nodes
    assert (lstm.layer, lstm.parameters) == ("lstm", 180)


def test_a_graph_that_computes_its_own_shapes_is_counted_after_one_run() -> None:
    text = """g (float[N,4,6] x, float[3,5] w) => (float[N,K,5] y) <int64 most = {8}, int64[1] three = {3}, int64[1] rest = {-1}> {
      size = Size(x)  many = Min(size, most)  whole = Unsqueeze(many, rest0)  shape = Concat<axis = 0>(whole, rest, three)
      z = Reshape(x, shape)  y = MatMul(z, w) }""".replace("rest0", "zero").replace(
        "rest = {-1}", "rest = {-1}, int64[1] zero = {0}"
    )
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]> ' + text)
    model.graph.input.pop()
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 5), np.float32), "w"))
    assert shapes_of(model, sizes={"N": 2})["z"] == (8, 2, 3)
    assert graph_cost(model, sizes={"N": 2}).macs == 8 * 2 * 5 * 3


def test_an_axis_without_a_size_is_named() -> None:
    with pytest.raises(ExportRefused, match=r"input 'frames' has a dynamic axis 'N', sizes are given for \['batch'\]"):
        graph_cost(mobilenet_v2(), sizes={"batch": 1})
