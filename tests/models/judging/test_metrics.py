"""Figures against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.data.dataset import Sample
from models.judging.accept import accept
from models.judging.judge import Judged, Runner
from models.judging.metrics import agreement, auc, figures, wilson
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


def scores(rng: np.random.Generator, truth: np.ndarray, *, classes: int, apart: float) -> np.ndarray:
    logits = rng.normal(size=(len(truth), classes))
    logits[np.arange(len(truth)), truth] += apart
    shares = np.exp(logits)
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_auc_is_that_of_sklearn_binary_or_the_mean_of_one_against_the_rest(classes: int) -> None:
    rng = np.random.default_rng(classes)
    truth = rng.integers(0, classes, 150)
    rows = scores(rng, truth, classes=classes, apart=0.8)
    expected = roc_auc_score(truth, rows[:, 1] if classes == 2 else rows, multi_class="ovr")
    found = auc(rows, truth)
    assert found.value == pytest.approx(expected, abs=1e-6)
    assert found.interval[0] < found.value < found.interval[1]
    assert auc(rows, truth) == found, "the resamples are seeded"


def test_ties_of_the_auc_count_half() -> None:
    rows = np.array([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]], np.float32)
    assert auc(rows, np.array([0, 1, 1])).value == 0.75


def test_the_interval_of_the_auc_is_as_wide_as_hanley_and_mcneil_say() -> None:
    rng = np.random.default_rng(3)
    truth = np.repeat([0, 1], 300)
    found = auc(scores(rng, truth, classes=2, apart=1.0), truth)
    area, pairs = found.value, 300 * 300
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 299 * (q1 - area**2) + 299 * (q2 - area**2)) / pairs)
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_an_auc_of_one_on_few_samples_is_not_certain() -> None:
    truth = np.array([0] * 10 + [1] * 15)
    found = auc(rows(truth.tolist()), truth)
    assert found.value == 1
    assert 0.75 < found.interval[0] < 0.9
    assert found.interval[1] == 1
    assert auc(rows((1 - truth).tolist()), truth).interval == pytest.approx((0, 1 - found.interval[0]), abs=1e-6)


def test_one_class_alone_has_no_auc() -> None:
    with pytest.raises(ValueError, match="needs two classes in the truth, got 1"):
        auc(rows([0, 1]), np.array([1, 1]))
