"""What is observed in a graph is what NumPy finds in the very same tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from models.quantize.observe import BINS, observe
from tests.models.quantize.drawn import Drawing, frames_of, tensors

NAMES = ("planes", "act1:0", "lines", "flat")
# Where the channels of each lie: behind the frames for a convolution, last for a product.
CHANNELS = {"planes": 1, "act1:0": 1, "lines": 2, "flat": 1}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """Two convolutions, a product of `[N, 64, 4]` and one of `[N, 320]`."""
    drawing = Drawing()
    source = drawing.relu(drawing.conv("planes", 6, name="conv1"), name="act1")
    source = drawing.conv(source, 4, name="conv2")
    turned = drawing.node("Transpose", source, name="back", perm=[0, 2, 3, 1])
    drawing.node("Reshape", turned, drawing.constant("s1", np.array([-1, 64, 4])), name="join", out="lines")
    dense = drawing.random.normal(0, 1, (4, 5)).astype(np.float32)
    product = drawing.node("MatMul", "lines", drawing.constant("dense1", dense), name="dense1")
    drawing.node("Reshape", product, drawing.constant("s2", np.array([-1, 320])), name="join2", out="flat")
    wide = drawing.random.normal(0, 1, (320, 3)).astype(np.float32)
    drawing.node("Gemm", "flat", drawing.constant("dense2", wide), name="dense2", out="features")
    return drawing.model(features=["N", 3])


def others(name: str, rank: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(rank) if axis != CHANNELS[name])


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """19 frames, which no batch divides; the last three are bright, and weigh as much as any other."""
    found = frames_of(19) // 4
    found[16:] += 150
    return found


@pytest.mark.parametrize("name", NAMES)
def test_peaks_and_means_of_each_channel_are_those_of_numpy(
    model: onnx.ModelProto, rows: np.ndarray, name: str
) -> None:
    values = tensors(model, rows, name)[name].astype(np.float64)
    found = observe(model, rows, [name])[name]
    axes = others(name, values.ndim)
    assert found.peaks == pytest.approx(np.abs(values).max(axis=axes), rel=1e-5)
    assert found.means == pytest.approx(values.mean(axis=axes), rel=1e-4, abs=1e-5)
    assert found.largest == pytest.approx(np.abs(values).max(), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_the_histogram_of_numpy(model: onnx.ModelProto, rows: np.ndarray, name: str) -> None:
    values = np.abs(tensors(model, rows, name)[name].astype(np.float64))
    found = observe(model, rows, NAMES)[name]
    wanted, _ = np.histogram(values, BINS, (0, found.largest))
    assert found.counts.sum() == values.size
    edges = np.abs(np.cumsum(found.counts) - np.cumsum(wanted)).max()
    assert edges <= 0.002 * values.size, "but for values on the edge of two bins"


def test_negative_values_count_by_their_size(model: onnx.ModelProto, rows: np.ndarray) -> None:
    values = tensors(model, rows, "lines")["lines"]
    low = int(values.min(axis=(0, 1)).argmin())
    found = observe(model, rows, ["lines"])["lines"]
    assert -values[..., low].min() > values[..., low].max(), "or this shows nothing"
    assert found.peaks[low] == pytest.approx(-values[..., low].min(), rel=1e-5)


def test_the_order_of_the_rows_changes_nothing(model: onnx.ModelProto, rows: np.ndarray) -> None:
    one, other = observe(model, rows, NAMES), observe(model, rows[::-1], NAMES)
    for name in NAMES:
        assert one[name].peaks == pytest.approx(other[name].peaks, rel=1e-6)
        assert one[name].means == pytest.approx(other[name].means, rel=1e-4, abs=1e-5)
        assert np.abs(one[name].counts - other[name].counts).sum() <= 4


def test_of_many_rows_64_are_counted_and_all_give_the_range(model: onnx.ModelProto) -> None:
    rows = frames_of(100) // 8
    picked = set(np.linspace(0, 99, 64).round().astype(int).tolist())
    lonely = next(number for number in range(100) if number not in picked)
    rows[lonely] = 255
    found = observe(model, rows, ["planes"])["planes"]
    assert found.largest == 1
    assert found.counts.sum() == 64 * rows[0].size
    assert not found.counts[BINS // 4 :].any(), "the bright row is none of the 64"


def test_what_is_never_anything_but_zero_is_counted_nowhere(model: onnx.ModelProto) -> None:
    found = observe(model, np.zeros((4, 8, 8, 3), np.uint8), ["planes"])["planes"]
    assert (found.largest, found.counts.sum()) == (0, 0)
    assert found.means.tolist() == found.peaks.tolist() == [0, 0, 0]


def test_clips_are_observed_whole() -> None:
    drawing = Drawing(clips=True)
    source = drawing.relu(drawing.conv("planes", 5, name="conv1", rank=3), name="act1")
    drawing.node("GlobalAveragePool", drawing.conv(source, 4, name="conv2", rank=3), name="pool", out="features")
    model = drawing.model(features=["N", 4, 1, 1, 1])
    rows = np.stack([frames_of(3, seed=seed) // (seed + 1) for seed in range(11)])
    found = observe(model, rows, ["planes", "act1:0"])
    for name, each in found.items():
        values = tensors(model, rows, name)[name].astype(np.float64)
        assert each.peaks == pytest.approx(np.abs(values).max(axis=(0, 2, 3, 4)), rel=1e-5)
        assert each.means == pytest.approx(values.mean(axis=(0, 2, 3, 4)), rel=1e-4)
        assert each.counts.sum() == values.size
