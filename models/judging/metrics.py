"""Figures of a classifier, each with its n and its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score

_RESAMPLES = 2000
_Z = 1.959964


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


@dataclass(frozen=True, slots=True)
class Auc:
    """The area under the ROC curve with its 95 % interval: of class 1 with two classes, else the mean of each class against the rest."""

    value: float
    interval: tuple[float, float]


def auc(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> Auc:
    """Of `probabilities` `[n, K]` against `truth` `[n]`, over the classes that occur in the truth, two or more; ties count half.

    The interval is the percentile one of 2,000 resamples within each class, of one seed (stratified bootstrap: Carpenter & Bithell
    2000). Where no two resamples differ, as with an area of 1, it would have no width: there stands Newcombe's score interval
    (2006, method 5) of the class that has the widest.
    """
    held = np.unique(truth)
    if len(held) < 2:
        raise ValueError(f"an area under the ROC curve needs two classes in the truth, got {len(held)}")
    rng = np.random.default_rng(0)
    counts = np.zeros((_RESAMPLES, len(truth)), np.float32)  # how often each sample is drawn
    for label in held:
        chosen = truth == label
        size = int(chosen.sum())
        counts[:, chosen] = rng.multinomial(size, np.full(size, 1 / size), _RESAMPLES)
    positives = held[1:] if probabilities.shape[1] == 2 else held
    areas = [_areas(probabilities[:, label], truth == label, counts) for label in positives]
    value = float(np.mean([whole for whole, _ in areas]))
    drawn = np.mean([resampled for _, resampled in areas], axis=0)
    low, high = (float(bound) for bound in np.quantile(drawn, [0.025, 0.975]))
    if high - low < 1e-9:
        sizes = [int((truth == label).sum()) for label in positives]
        low, high = min(_newcombe(value, size, len(truth) - size) for size in sizes)
    return Auc(value, (min(low, value), max(high, value)))


def _areas(
    scores: NDArray[np.float32], positive: NDArray[np.bool_], counts: NDArray[np.float32]
) -> tuple[float, NDArray[np.float32]]:
    """The share of pairs in the right order (Mann & Whitney 1947), of the samples and of each resample."""
    difference = scores[positive][:, None] - scores[~positive][None, :]
    ordered = (np.sign(difference) + 1).astype(np.float32) / 2
    ours, others = counts[:, positive], counts[:, ~positive]
    pairs = int(positive.sum()) * int((~positive).sum())
    return float(ordered.sum(dtype=np.float64) / pairs), np.einsum("bn,bn->b", ours @ ordered, others) / pairs


def _newcombe(value: float, ours: int, others: int) -> tuple[float, float]:
    """The areas from which `value` is no further than 1.96 of their own standard errors, as Hanley & McNeil give them."""
    mean = (ours + others) / 2 - 1

    def excess(area: float) -> float:
        spread = 1 + mean * (1 - area) / (2 - area) + mean * area / (1 + area)
        return (value - area) ** 2 - _Z**2 * area * (1 - area) * spread / (ours * others)

    low = brentq(excess, 1e-9, value - 1e-9) if excess(1e-9) > 0 > excess(value - 1e-9) else 0.0
    high = brentq(excess, value + 1e-9, 1 - 1e-9) if value < 1 - 1e-6 and excess(1 - 1e-9) > 0 else 1.0
    return float(low), float(high)
