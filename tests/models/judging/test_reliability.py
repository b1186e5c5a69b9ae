"""Calibration against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.judging.plots import png, reliability_figure
from models.judging.reliability import reliability, reliability_lines


def two_classes(confidences: list[float]) -> np.ndarray:
    """Answers `[n, 2]` that name class 0 with so much confidence."""
    return np.array([[each, 1 - each] for each in confidences], np.float32)


def test_the_calibration_error_is_the_bins_distances_weighted_by_their_n() -> None:
    # Bins of 1/15: 0.61 and 0.65 in (9/15, 10/15], 0.95 and 0.96 in the last. By hand: 2/4·|1/2 − 0.63| + 2/4·|1 − 0.955| = 0.0875.
    found = reliability(two_classes([0.61, 0.65, 0.95, 0.96]), np.array([0, 1, 0, 0]))
    assert found["ece"] == pytest.approx(0.0875, abs=1e-6)
    assert (found["n"], found["accuracy"]) == (4, 0.75)
    assert found["confidence"] == pytest.approx(0.7925)
    assert [(each["n"], each["accuracy"]) for each in found["bins"]] == [(2, 0.5), (2, 1.0)]
    assert [each["confidence"] for each in found["bins"]] == pytest.approx([0.63, 0.955])
    assert found["bins"][0]["from"] == pytest.approx(9 / 15)
    assert found["bins"][1]["to"] == 1


def test_bins_open_below_and_close_above_and_those_without_samples_are_left_out() -> None:
    found = reliability(two_classes([1.0, 14.1 / 15, 13.9 / 15, 0.5]), np.array([0, 0, 0, 0]))
    assert [(round(each["to"] * 15), each["n"]) for each in found["bins"]] == [(8, 1), (14, 1), (15, 2)]


def test_true_confidences_are_not_far_from_what_chance_shows_and_false_ones_are() -> None:
    rng = np.random.default_rng(3)
    confidences = rng.uniform(0.5, 1.0, 400)
    rows = two_classes(confidences.tolist())
    honest = reliability(rows, (rng.random(400) > confidences).astype(np.int64))
    wrong = reliability(rows, (rng.random(400) > 0.5).astype(np.int64))
    assert honest["ece"] < 2 * honest["chance_ece"] < wrong["ece"]
    few = reliability(rows[:20], np.zeros(20, np.int64))
    assert few["chance_ece"] > 2 * honest["chance_ece"], "few samples leave much to chance"


def test_each_runner_has_a_panel_with_a_point_and_a_bar_with_its_n_for_each_bin() -> None:
    rows = [
        {"engine": "openvino", "precision": precision, "split": "test", **reliability(two_classes(given), truth)}
        for precision, given, truth in (
            ("fp32", [0.61, 0.65, 0.95], np.array([0, 1, 0])),
            ("int8", [0.55, 0.7, 0.8, 0.99], np.array([0, 0, 1, 0])),
        )
    ]
    figure = reliability_figure(rows)
    above, below = figure.axes[::2], figure.axes[1::2]
    assert [len(axes.patches) for axes in below] == [2, 4]
    assert [[text.get_text() for text in axes.texts] for axes in below] == [["2", "1"], ["1"] * 4]
    assert [len(axes.containers[0].lines[0].get_xdata()) for axes in above] == [2, 4]
    assert "openvino int8, test, n=4" in above[1].get_title()
    assert png(figure).startswith(b"\x89PNG")
    text = "\n".join(reliability_lines(rows))
    assert "![Reliability: accuracy by confidence](reliability.png)" in text
    assert "test (4)" in text


def test_where_nothing_was_judged_there_is_no_section() -> None:
    assert reliability_lines([]) == []
