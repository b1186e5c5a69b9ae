"""Figures of a classifier, each with its n and its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score


@dataclass(frozen=True, slots=True)
class Figures:
    """`accuracy_interval` is Wilson's at 95 %; `top5` is None with five classes or fewer; `macro_f1` is over the classes that
    occur in the truth; `confusion` is `[K, K]`, truth down, prediction across.
    """

    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    top5: float | None
    macro_f1: float
    confusion: NDArray[np.int64]


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    interval = binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def figures(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> Figures:
    """Of `probabilities` `[n, K]` against `truth` `[n]` class ids."""
    n, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    hits = int((predicted == truth).sum())
    top5 = None
    if classes > 5:
        best = np.argpartition(-probabilities, 5, axis=1)[:, :5]
        top5 = float((best == truth[:, None]).any(axis=1).mean())
    return Figures(
        n,
        hits / n,
        wilson(hits, n),
        top5,
        float(f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0.0)),
        confusion_matrix(truth, predicted, labels=np.arange(classes)),
    )


def agreement(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[float, tuple[float, float]]:
    """The share of clips on which both `[n, K]` name the same class, with its interval."""
    same = int((one.argmax(axis=1) == other.argmax(axis=1)).sum())
    return same / len(one), wilson(same, len(one))
