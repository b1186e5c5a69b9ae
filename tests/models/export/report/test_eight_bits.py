"""INT8 is meant for convolutions, products with weights and residual sums; of a clip network, up to where it decides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.export.report.eight_bits import int8_nodes


class Drawn:
    """A graph node by node; each is named after its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *dims: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ones(dims, np.float32), name))
        return name

    def add(self, kind: str, output: str, *inputs: str, outputs: tuple[str, ...] = (), **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output, *outputs], name=output, **attributes))
        return output

    def conv(self, output: str, source: str, *, weight: str | None = None, rank: int = 2) -> str:
        return self.add("Conv", output, source, weight or self.weight(4, 4, *[3] * rank), pads=[1] * (2 * rank))

    def dense(self, output: str, source: str) -> str:
        return self.add("MatMul", output, source, self.weight(4, 4))

    def graph(self, *outputs: str) -> onnx.GraphProto:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", *outputs)]
        return helper.make_graph(self.nodes, "drawn", values[:1], values[1:], self.weights)


@pytest.fixture
def drawn() -> Iterator[Drawn]:
    """Checked after the test to be a graph at all."""
    found = Drawn()
    yield found
    made = {"x", *(tensor.name for tensor in found.weights)}
    for node in found.nodes:
        assert made.issuperset(node.input), f"{node.name} reads {set(node.input) - made}"
        made.update(node.output)


def test_a_residual_sum_is_one_with_a_convolution_or_a_product_its_bias_and_scale_aside(drawn: Drawn) -> None:
    drawn.add("Add", "skip", drawn.conv("c", "x"), "x")
    drawn.add("Add", "bias", drawn.dense("d", "skip"), drawn.weight(4))
    drawn.add("Mul", "scale", drawn.add("Reshape", "turned", "bias", drawn.weight(3)), drawn.weight(4))
    drawn.add("Add", "features", "skip", "scale")
    assert int8_nodes(drawn.graph("features")) == ("c", "skip", "d", "features")


def test_the_halves_of_a_written_out_normalisation_stay_float(drawn: Drawn) -> None:
    drawn.add("ReduceMean", "mean", drawn.conv("c", "x"))
    drawn.add("Mul", "one", "c", "mean")
    drawn.add("Mul", "other", "mean", "mean")
    drawn.add("Add", "features", "one", "other")
    assert int8_nodes(drawn.graph("features")) == ("c",)


def test_a_product_of_two_activations_stays_float(drawn: Drawn) -> None:
    drawn.add("MatMul", "scores", drawn.dense("q", "x"), drawn.dense("k", "x"))
    drawn.dense("features", "scores")
    assert int8_nodes(drawn.graph("features")) == ("q", "k", "features")


def test_convolutions_over_space_and_space_and_time_are_int8_and_over_time_alone_are_not(drawn: Drawn) -> None:
    drawn.conv("alone", drawn.conv("both", drawn.conv("space", "x", rank=2), rank=3), rank=1)
    assert int8_nodes(drawn.graph("alone")) == ("space", "both")


def test_of_a_clip_network_the_wide_dense_layers_are_int8_and_the_last_one_decides_in_float(drawn: Drawn) -> None:
    drawn.dense(
        "probabilities", drawn.add("Relu", "r", drawn.dense("fc7", drawn.dense("fc6", drawn.conv("c", "x", rank=3))))
    )
    assert int8_nodes(drawn.graph("probabilities")) == ("c", "fc6", "fc7")
    drawn.nodes[-1].output[0] = "features"
    assert int8_nodes(drawn.graph("features"))[-1] == "probabilities", (
        "the same graph as an encoder has a head behind it"
    )


@pytest.mark.parametrize("output", ["probabilities", "features"])
def test_nothing_is_int8_from_a_recurrent_layer_on_nor_right_before_it(drawn: Drawn, output: str) -> None:
    drawn.dense("projected", drawn.conv("c", "x"))
    drawn.add("LSTM", "lstm", "projected", drawn.weight(1, 16, 4), drawn.weight(1, 16, 4), hidden_size=4)
    drawn.dense(output, drawn.dense("hidden", "lstm"))
    assert int8_nodes(drawn.graph(output)) == ("c",)


def test_an_unrolled_convlstm_sums_its_gates_and_carries_its_cell_in_float(drawn: Drawn) -> None:
    recurrent = drawn.weight(4, 4, 3, 3)
    drawn.add("Split", "step1", drawn.conv("gates", "x"), outputs=("step2", "step3"), num_outputs=3)
    state = drawn.add("Sigmoid", "h1", "step1")
    for number in (2, 3):
        drawn.add("Add", f"sum{number}", f"step{number}", drawn.conv(f"move{number}", state, weight=recurrent))
        drawn.add("Mul", f"forget{number}", drawn.add("Sigmoid", f"gate{number}", f"sum{number}"), state)
        state = drawn.add("Add", f"carry{number}", f"forget{number}", f"gate{number}")
    drawn.dense("probabilities", state)
    assert int8_nodes(drawn.graph("probabilities")) == ("gates", "move2", "move3")


def test_an_image_read_as_a_sequence_has_nothing_for_int8(drawn: Drawn) -> None:
    drawn.add("LSTM", "lstm", "x", drawn.weight(1, 16, 4), drawn.weight(1, 16, 4), hidden_size=4)
    drawn.dense("probabilities", "lstm")
    assert int8_nodes(drawn.graph("probabilities")) == ()


@pytest.mark.parametrize(("per_group", "chosen"), [(1, True), (2, False), (4, True)])
def test_groups_of_few_channels_over_space_and_time_stay_float(drawn: Drawn, per_group: int, *, chosen: bool) -> None:
    drawn.add("Conv", "c", "x", drawn.weight(8, per_group, 3, 3, 3), group=8 // per_group, pads=[1] * 6)
    assert int8_nodes(drawn.graph("c")) == (("c",) if chosen else ())
