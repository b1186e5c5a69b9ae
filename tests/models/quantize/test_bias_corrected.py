"""The shift that rounded weights bring into a convolution's mean is taken from its bias; nothing else is touched."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from models.quantize.observe import Observed, observe
from models.quantize.qdq import place, quantized_tensors
from models.quantize.repair import bias_corrected
from tests.models.quantize.drawn import Drawing, frames_of, node_of, tensors, weights_of

WIDTH = 8
ROWS = frames_of(32, side=16)
GROUPS = {"plain": 1, "grouped": 2, "depthwise": WIDTH}


def lopsided(width: int, inputs: int) -> np.ndarray:
    """Kernels whose weights all lie 0.3 to 0.45 levels above one that INT8 has: rounded, their sum is too small."""
    random = np.random.default_rng(4)
    levels = random.integers(0, 40, (width, inputs, 3, 3)) + random.uniform(0.3, 0.45, (width, inputs, 3, 3))
    levels[:, :, 1, 1] = 127
    return (levels / 127 * random.uniform(0.2, 2, (width, 1, 1, 1))).astype(np.float32)


def drawn(group: int = 1, *, bias: bool = True) -> onnx.ModelProto:
    drawing = Drawing(side=16, seed=6)
    source = drawing.relu(drawing.conv("planes", WIDTH, name="conv1"), name="act1")
    drawing.weights["conv1/bias"][WIDTH // 2 :] += 1  # or one group is like the other
    kernel = lopsided(WIDTH, WIDTH // group)
    source = drawing.conv(source, WIDTH, name="conv2", group=group, kernel=kernel, bias=bias)
    source = drawing.conv(drawing.relu(source, name="act2"), WIDTH, name="conv3", size=1)
    drawing.flat(source, size=16, width=WIDTH)
    return drawing.model(features=["N", WIDTH])


def quantized(model: onnx.ModelProto, *names: str) -> tuple[onnx.ModelProto, dict[str, Observed]]:
    chosen = [f"{name}/Conv" for name in names]
    found = observe(model, ROWS, quantized_tensors(model.graph, chosen))
    return place(model, {name: each.largest for name, each in found.items()}, chosen), found


@pytest.mark.parametrize("kind", GROUPS)
def test_the_mean_of_every_channel_comes_nearer_to_float(kind: str) -> None:
    model = drawn(GROUPS[kind])
    int8, found = quantized(model, "conv2")
    corrected = bias_corrected(int8, model, found)
    wanted, rounded, mended = (
        tensors(each, ROWS, "conv2:0")["conv2:0"].mean(axis=(0, 2, 3)) for each in (model, int8, corrected)
    )
    before, after = np.abs(rounded - wanted), np.abs(mended - wanted)
    shifted = before > 0.004 * np.abs(wanted)
    assert shifted.sum() >= 6, "or there is nothing to correct"
    assert (after < 0.4 * before)[shifted].all()
    assert after.sum() < 0.4 * before.sum()


def test_the_whole_network_comes_nearer_to_float() -> None:
    model = drawn(WIDTH)
    int8, found = quantized(model, "conv1", "conv2", "conv3")
    wanted, rounded, mended = (
        tensors(each, ROWS, "features")["features"] for each in (model, int8, bias_corrected(int8, model, found))
    )
    assert np.abs(mended - wanted).mean() < 0.7 * np.abs(rounded - wanted).mean()


def test_nothing_but_the_biases_of_int8_convolutions_changes() -> None:
    model = drawn()
    int8, found = quantized(model, "conv1", "conv2")
    before = int8.SerializeToString(deterministic=True)
    corrected = bias_corrected(int8, model, found)
    assert int8.SerializeToString(deterministic=True) == before
    assert list(corrected.graph.node) == list(int8.graph.node)
    ours, theirs = weights_of(corrected), weights_of(int8)
    assert list(ours) == list(theirs)
    assert {name for name in ours if not np.array_equal(ours[name], theirs[name])} == {"conv1/bias", "conv2/bias"}
    assert ours["conv2/bias"].dtype == np.float32


def test_a_convolution_without_a_bias_and_one_whose_input_is_unknown_stay() -> None:
    model = drawn(bias=False)
    int8, found = quantized(model, "conv1", "conv2", "conv3")
    known = {name: each for name, each in found.items() if name != node_of(model, "conv1/Conv").input[0]}
    ours, theirs = weights_of(bias_corrected(int8, model, known)), weights_of(int8)
    assert {name for name in ours if not np.array_equal(ours[name], theirs[name])} == {"conv3/bias"}


def test_weights_that_rounding_leaves_as_they_are_need_no_correction() -> None:
    model = drawn()
    held = next(tensor for tensor in model.graph.initializer if tensor.name == "conv2/kernel")
    exact = np.random.default_rng(1).integers(-127, 128, (WIDTH, WIDTH, 3, 3)).astype(np.float32)
    exact[:, 0, 0, 0] = 127
    held.CopyFrom(onnx.numpy_helper.from_array(exact / 128, "conv2/kernel"))
    int8, found = quantized(model, "conv2")
    corrected = weights_of(bias_corrected(int8, model, found))["conv2/bias"]
    assert corrected == pytest.approx(weights_of(int8)["conv2/bias"], abs=1e-4)
