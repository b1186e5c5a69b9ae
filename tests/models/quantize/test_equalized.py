"""Channels made alike: the same numbers to the last bit, and only where nothing else looks between the two layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest

from models.export.runtime import Runtime
from models.quantize.observe import Observed, observe
from models.quantize.qdq import quantized_tensors
from models.quantize.repair import equalized
from tests.models.quantize.drawn import Drawing, frames_of, node_of, weights_of

WIDTH = 8
_UNEVEN = (1, 300, 0.02, 5, 0.4, 90, 0.1, 1)
ROWS = frames_of(24)


def first(drawing: Drawing, *, name: str = "conv1") -> str:
    """A convolution whose channels reach from 0.02 to 300."""
    target = drawing.conv("planes", WIDTH, name=name)
    for part in ("kernel", "bias"):
        values = drawing.weights[f"{name}/{part}"]
        values *= np.array(_UNEVEN, np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return target


def ended(drawing: Drawing, source: str, **more: list[int | str]) -> onnx.ModelProto:
    drawing.flat(source, size=8, width=WIDTH)
    return drawing.model(features=["N", WIDTH], **more)


def over_relu(drawing: Drawing) -> onnx.ModelProto:
    return ended(drawing, drawing.conv(drawing.relu(first(drawing), name="act1"), WIDTH, name="conv2"))


def over_nothing(drawing: Drawing) -> onnx.ModelProto:
    return ended(drawing, drawing.conv(first(drawing), WIDTH, name="conv2"))


def without_bias(drawing: Drawing) -> onnx.ModelProto:
    model = over_relu(drawing)
    del node_of(model, "conv1/Conv").input[2:]
    return model


def over_depthwise(drawing: Drawing) -> onnx.ModelProto:
    """Expand, depthwise, project: two pairs, of which the first ends in kernels of one channel each."""
    source = drawing.relu(first(drawing), name="act1")
    source = drawing.relu(drawing.conv(source, WIDTH, name="conv2", group=WIDTH), name="act2")
    return ended(drawing, drawing.conv(source, WIDTH, name="conv3", size=1))


def to_two(drawing: Drawing) -> onnx.ModelProto:
    """Two convolutions, one of them depthwise, read what one gives."""
    source = drawing.relu(first(drawing), name="act1")
    one = drawing.conv(source, WIDTH, name="conv2", group=WIDTH)
    return ended(drawing, drawing.node("Add", one, drawing.conv(source, WIDTH, name="conv3", size=1), name="joined"))


def observed(model: onnx.ModelProto) -> Mapping[str, Observed]:
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    return observe(model, ROWS, quantized_tensors(model.graph, convolutions))


PAIRS: dict[Callable[[Drawing], onnx.ModelProto], tuple[str, ...]] = {
    over_relu: ("conv1/Conv",),
    over_nothing: ("conv1/Conv",),
    without_bias: ("conv1/Conv",),
    over_depthwise: ("conv1/Conv", "conv2/Conv"),
    to_two: ("conv1/Conv",),
}


@pytest.mark.parametrize("draw", PAIRS, ids=lambda draw: draw.__name__)
def test_the_float_answers_stay_the_same_to_the_last_bit(draw: Callable[[Drawing], onnx.ModelProto]) -> None:
    model = draw(Drawing(seed=2))
    before = model.SerializeToString(deterministic=True)
    changed, names = equalized(model, observed(model))
    assert names == PAIRS[draw]
    for seed in range(3):
        rows = frames_of(8, seed=seed)
        assert np.array_equal(Runtime(changed)(rows)["features"], Runtime(model)(rows)["features"])
    assert model.SerializeToString(deterministic=True) == before
    assert list(changed.graph.node) == list(model.graph.node)


@pytest.mark.parametrize("draw", PAIRS, ids=lambda draw: draw.__name__)
def test_weights_change_by_powers_of_two_alone(draw: Callable[[Drawing], onnx.ModelProto]) -> None:
    model = draw(Drawing(seed=2))
    before, after = weights_of(model), weights_of(equalized(model, observed(model))[0])
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {"conv1/kernel", "conv2/kernel"} <= moved
    assert ("conv1/bias" in moved) == (draw is not without_bias)
    for name in moved:
        mantissas, _ = np.frexp(after[name] / before[name])
        assert (mantissas == 0.5).all(), name


def test_what_channels_reach_and_the_weights_that_read_them_become_alike() -> None:
    model = over_relu(Drawing(seed=2))
    found = observed(model)
    changed, _ = equalized(model, found)
    peaks = observed(changed)["act1:0"].peaks
    columns = np.abs(weights_of(changed)["conv2/kernel"]).max(axis=(0, 2, 3))
    ratios = peaks / columns
    assert ratios.max() / ratios.min() <= 4 * (1 + 1e-6), "each within a factor of √2 twice"
    assert found["act1:0"].peaks.max() > 1000 * found["act1:0"].peaks.min()
    assert peaks.max() < 200 * peaks.min()


def test_before_kernels_of_one_channel_each_all_channels_reach_the_same() -> None:
    model = over_depthwise(Drawing(seed=2))
    peaks = observed(equalized(model, observed(model))[0])["act1:0"].peaks
    assert peaks.max() / peaks.min() <= 2 * (1 + 1e-6)


def test_a_channel_that_is_dead_stays_as_it_is() -> None:
    drawing = Drawing(seed=2)
    model = over_relu(drawing)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, dead in (("conv1/kernel", 0.0), ("conv1/bias", -1.0)):
        values = weights_of(model)[name].copy()
        values[3] = dead
        held[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    changed, names = equalized(model, observed(model))
    assert names == ("conv1/Conv",)
    assert weights_of(changed)["conv1/bias"][3] == -1
    assert np.array_equal(weights_of(changed)["conv2/kernel"][:, 3], weights_of(model)["conv2/kernel"][:, 3])


def test_alike_channels_are_left_alone() -> None:
    model = over_relu(Drawing(seed=2))
    once, _ = equalized(model, observed(model))
    twice, names = equalized(once, observed(once))
    assert names == ()
    assert twice == once


def test_a_tensor_that_is_not_observed_is_not_crossed() -> None:
    model = over_depthwise(Drawing(seed=2))
    found = {name: each for name, each in observed(model).items() if name != "act1:0"}
    changed, names = equalized(model, found)
    assert names == ("conv2/Conv",)
    assert np.array_equal(weights_of(changed)["conv1/kernel"], weights_of(model)["conv1/kernel"])


def over_relu6(drawing: Drawing) -> onnx.ModelProto:
    return ended(drawing, drawing.conv(drawing.clip(first(drawing), name="act1", most=6), WIDTH, name="conv2"))


def read_by_a_sum(drawing: Drawing) -> onnx.ModelProto:
    source = drawing.relu(first(drawing), name="act1")
    return ended(drawing, drawing.node("Add", drawing.conv(source, WIDTH, name="conv2"), source, name="joined"))


def read_before_the_relu(drawing: Drawing) -> onnx.ModelProto:
    raw = first(drawing)
    source = drawing.conv(drawing.relu(raw, name="act1"), WIDTH, name="conv2")
    return ended(drawing, drawing.node("Add", source, raw, name="joined"))


def given_out(drawing: Drawing) -> onnx.ModelProto:
    source = drawing.relu(first(drawing), name="act1")
    return ended(drawing, drawing.conv(source, WIDTH, name="conv2"), **{source: ["N", WIDTH, 8, 8]})


def given_out_before_the_relu(drawing: Drawing) -> onnx.ModelProto:
    raw = first(drawing)
    source = drawing.conv(drawing.relu(raw, name="act1"), WIDTH, name="conv2")
    return ended(drawing, source, **{raw: ["N", WIDTH, 8, 8]})


def read_by_groups(drawing: Drawing) -> onnx.ModelProto:
    return ended(drawing, drawing.conv(drawing.relu(first(drawing), name="act1"), WIDTH, name="conv2", group=2))


def _shared(drawing: Drawing, which: str) -> onnx.ModelProto:
    """Two branches of two convolutions each, which share the kernels of the first or of the second."""
    ends = []
    for branch in ("a", "b"):
        source = drawing.relu(first(drawing, name=f"conv1{branch}"), name=f"act{branch}")
        ends.append(drawing.conv(source, WIDTH, name=f"conv2{branch}"))
    for node in drawing.nodes:
        if node.name == f"{which}b/Conv":
            node.input[1] = f"{which}a/kernel"
    del drawing.weights[f"{which}b/kernel"]
    return ended(drawing, drawing.node("Add", *ends, name="joined"))


def whose_first_kernel_another_uses(drawing: Drawing) -> onnx.ModelProto:
    return _shared(drawing, "conv1")


def whose_second_kernel_another_uses(drawing: Drawing) -> onnx.ModelProto:
    return _shared(drawing, "conv2")


@pytest.mark.parametrize(
    "draw",
    [
        over_relu6,
        read_by_a_sum,
        read_before_the_relu,
        given_out,
        given_out_before_the_relu,
        read_by_groups,
        whose_first_kernel_another_uses,
        whose_second_kernel_another_uses,
    ],
)
def test_a_pair_is_left_alone(draw: Callable[[Drawing], onnx.ModelProto]) -> None:
    model = draw(Drawing(seed=2))
    changed, names = equalized(model, observed(model))
    assert names == ()
    assert changed == model
