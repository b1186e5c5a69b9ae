"""Figures against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.accept import accept
from models.dataset import Sample
from models.judge import Judged, Runner
from models.metrics import agreement, figures, wilson
from service.engine.base import EngineInfo

FLOAT, INT8 = Runner("openvino", "fp32"), Runner("openvino", "int8")


def rows(predicted: list[int], classes: int = 2) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predicted]


def test_wilson_is_the_textbook_interval() -> None:
    # Agresti & Coull 1998: 0 of 10 gives [0, 0.278], and symmetry.
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-3)
    assert wilson(10, 10) == pytest.approx((0.7225, 1), abs=1e-3)
    assert wilson(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)


def test_figures_of_a_small_case() -> None:
    found = figures(rows([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1]))
    assert found.accuracy == 0.8
    assert found.confusion.tolist() == [[2, 1], [0, 2]]
    # F1 of class 0: 2·2/(2·2+0+1) = 0.8; of class 1: 2·2/(2·2+1+0) = 0.8
    assert found.macro_f1 == pytest.approx(0.8)
    assert found.top5 is None


def test_top5_counts_the_truth_among_the_five_likeliest() -> None:
    scores = np.array([[0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02]] * 2, np.float32)
    found = figures(scores, np.array([4, 5]))
    assert (found.accuracy, found.top5) == (0, 0.5)


def test_macro_f1_leaves_out_classes_that_the_truth_does_not_hold() -> None:
    assert figures(rows([0, 1], 50), np.array([0, 1])).macro_f1 == 1


def test_agreement_is_the_share_of_equal_answers() -> None:
    share, (low, high) = agreement(rows([0, 1, 1, 0]), rows([0, 1, 0, 0]))
    assert share == 0.75
    assert low < 0.75 < high


def judged(truth: list[int], float_: list[int], int8: list[int], splits: list[str] | None = None) -> Judged:
    samples = tuple(Sample(Path("x"), None, "", "", split) for split in splits or ["test"] * len(truth))
    info = EngineInfo("openvino", "fp32", "fp32", "cpu")
    return Judged(samples, np.array(truth), {FLOAT: rows(float_), INT8: rows(int8)}, {FLOAT: info, INT8: info})


def test_one_lost_clip_is_allowed_and_two_are_not() -> None:
    right = [0] * 50
    assert accept(judged(right, right, [1, *right[1:]]), split="test", max_drop=0.01).accepted
    refused = accept(judged(right, right, [1, 1, *right[2:]]), split="test", max_drop=0.01)
    assert not refused.accepted
    assert "refused: accuracy -4.0%" in str(refused)


def test_int8_that_is_as_accurate_but_disagrees_is_refused() -> None:
    truth = [0] * 20
    verdict = accept(judged(truth, [1, 1, *truth[2:]], [*truth[2:], 1, 1]), split="test", max_drop=0.01)
    assert verdict.loss == 0
    assert verdict.agreement == 0.8
    assert not verdict.accepted


def test_accuracy_is_of_the_split_and_agreement_of_everything_judged() -> None:
    verdict = accept(
        judged([0] * 4, [0] * 4, [0, 0, 0, 1], ["test", "test", "test", "val"]), split="test", max_drop=0.01
    )
    assert (verdict.n, verdict.loss, verdict.agreement_n, verdict.agreement) == (3, 0, 4, 0.75)
