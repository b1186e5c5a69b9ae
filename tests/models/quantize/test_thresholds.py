"""Each method's threshold is what it says, on the values themselves and not on their bins alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models.quantize.observe import BINS, Observed, observe
from models.quantize.qdq import chosen_nodes, place, quantized_tensors, with_thresholds
from models.quantize.thresholds import METHODS
from tests.models.quantize.drawn import Drawing, frames_of, weights_of

PERCENTILES = tuple(name for name in METHODS if name.startswith("Percentile"))


def seen(values: NDArray[np.float64]) -> Observed:
    sizes = np.abs(values)
    counts, _ = np.histogram(sizes, BINS, (0, sizes.max() or 1))
    return Observed(float(sizes.max()), counts if sizes.any() else 0 * counts, sizes[None].max(1), values[None].mean(1))


def with_outliers() -> NDArray[np.float64]:
    """100,000 values of a bell, and ten at seven times its reach."""
    random = np.random.default_rng(3)
    return np.concatenate([random.normal(0, 1, 100_000), random.uniform(25, 30, 10)])


def loss(values: NDArray[np.float64], threshold: float) -> float:
    step = threshold / 127
    return float(np.square(values - np.clip(np.round(values / step), -127, 127) * step).sum())


def test_min_max_clips_nothing() -> None:
    values = with_outliers()
    assert METHODS["MinMax"](seen(values)) == np.abs(values).max()


@pytest.mark.parametrize("name", PERCENTILES)
def test_a_percentile_is_that_of_numpy_within_a_bin(name: str) -> None:
    values = np.random.default_rng(5).exponential(1, 300_000)
    share = float(name.split()[1])
    threshold = METHODS[name](seen(values))
    exact = np.percentile(values, share, method="inverted_cdf")
    assert 0 <= threshold - exact <= values.max() / BINS + 1e-9
    assert (values <= threshold).mean() >= share / 100


def test_the_percentiles_are_three_and_differ() -> None:
    found = seen(np.random.default_rng(5).exponential(1, 300_000))
    assert sorted(PERCENTILES) == ["Percentile 99.9", "Percentile 99.99", "Percentile 99.999"]
    assert METHODS["Percentile 99.9"](found) < METHODS["Percentile 99.99"](found) < METHODS["Percentile 99.999"](found)


@pytest.mark.parametrize("tail", ["bell", "outliers", "uniform"])
def test_the_mean_squared_error_is_the_least_that_brute_force_finds_on_the_values(tail: str) -> None:
    random = np.random.default_rng(7)
    values = {
        "bell": random.laplace(0, 1, 50_000),
        "outliers": with_outliers(),
        "uniform": random.uniform(-1, 1, 50_000),
    }[tail]
    largest = np.abs(values).max()
    best = min(loss(values, threshold) for threshold in largest * np.linspace(0.125, 1, 113))
    threshold = METHODS["MSE"](seen(values))
    assert loss(values, threshold) <= 1.03 * best
    assert (threshold > 0.98 * largest) == (tail == "uniform")


def test_entropy_clips_rare_outliers_and_keeps_the_others() -> None:
    values = with_outliers()
    threshold = METHODS["Entropy"](seen(values))
    assert 3 < threshold < 12, "the bell reaches 4.4, the outliers lie beyond 25"


def test_entropy_clips_nothing_of_what_is_spread_evenly() -> None:
    values = np.random.default_rng(9).uniform(0, 5, 400_000)
    assert METHODS["Entropy"](seen(values)) == values.max()


def test_zeros_behind_a_relu_do_not_move_entropy_but_do_move_percentiles() -> None:
    values = np.abs(np.random.default_rng(9).uniform(-5, 5, 400_000))
    bare = seen(values[values > values.max() / BINS])
    padded = seen(np.concatenate([values, np.zeros(9 * len(values))]))
    assert METHODS["Entropy"](padded) == METHODS["Entropy"](bare) == values.max()
    assert METHODS["Percentile 99.9"](padded) < METHODS["Percentile 99.9"](bare)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_scales_with_the_values(name: str) -> None:
    values = with_outliers()
    assert METHODS[name](seen(8 * values)) == pytest.approx(8 * METHODS[name](seen(values)), rel=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_always_zero_has_the_threshold_zero(name: str) -> None:
    assert METHODS[name](seen(np.zeros(64))) == 0


def residual() -> onnx.ModelProto:
    drawing = Drawing()
    first = drawing.relu(drawing.conv("planes", 8, name="conv1"), name="act1")
    second = drawing.conv(drawing.relu(drawing.conv(first, 8, name="conv2"), name="act2"), 8, name="conv3")
    joined = drawing.relu(drawing.node("Add", second, first, name="joined"), name="act3")
    drawing.flat(drawing.conv(joined, 8, name="conv4"), size=8, width=8)
    return drawing.model(features=["N", 8])


def over_time() -> onnx.ModelProto:
    """Its three colours become four, and the threshold belongs to what is padded."""
    drawing = Drawing(clips=True)
    source = drawing.relu(drawing.conv("planes", 6, name="conv1", rank=3), name="act1")
    pooled = drawing.node("GlobalAveragePool", drawing.conv(source, 4, name="conv2", rank=3), name="pool")
    drawing.node("Reshape", pooled, drawing.constant("flat", np.array([-1, 4])), name="flat", out="features")
    return drawing.model(features=["N", 4])


@pytest.mark.parametrize("network", ["residual", "over_time"])
def test_with_thresholds_gives_what_place_gives_with_them(network: str) -> None:
    model = residual() if network == "residual" else over_time()
    rows = frames_of(12) if network == "residual" else frames_of(24).reshape(8, 3, 8, 8, 3)
    chosen = chosen_nodes(model.graph)
    found = observe(model, rows, quantized_tensors(model.graph, chosen))
    widest = {name: each.largest for name, each in found.items()}
    narrow = {name: bound * (0.3 + 0.1 * number) for number, (name, bound) in enumerate(widest.items())}
    placed = place(model, widest, chosen)
    before = placed.SerializeToString(deterministic=True)
    changed, wanted = with_thresholds(placed, narrow), place(model, narrow, chosen)
    assert list(changed.graph.node) == list(wanted.graph.node)
    ours, theirs = weights_of(changed), weights_of(wanted)
    assert list(ours) == list(theirs)
    for name, values in ours.items():
        assert values.dtype == theirs[name].dtype, name
        assert values.shape == theirs[name].shape, name
        assert values == pytest.approx(theirs[name], rel=2e-7), name
    moved = [name for name, values in weights_of(placed).items() if not np.array_equal(values, ours[name])]
    scales = {node.input[1] for node in placed.graph.node if node.op_type == "QuantizeLinear"}
    assert set(moved) == scales, "every scale of a tensor, and nothing else"
    assert placed.SerializeToString(deterministic=True) == before
