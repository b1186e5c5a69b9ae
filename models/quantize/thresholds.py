"""From how a tensor's values are spread to the largest |x| that its 127 levels reach: what lies beyond is clipped.

Wide ranges waste levels on a few outliers, narrow ones clip them; which is worse depends on the network, so the methods are tried on val.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from models.quantize.observe import BINS, Observed

_LEVELS = 127
# Thresholds to choose from, in bins: below an eighth of the range nothing good was ever found.
_CANDIDATES = np.arange(BINS // 8, BINS + 1, 16)
Method = Callable[[Observed], float]


def largest(found: Observed) -> float:
    """Nothing is clipped."""
    return found.largest


def percentile(share: float) -> Method:
    """`share` per cent of the values, zeros included, are within."""

    def threshold(found: Observed) -> float:
        within = np.cumsum(found.counts)
        if not within[-1]:
            return found.largest
        return found.largest * float(np.searchsorted(within, share / 100 * within[-1]) + 1) / BINS

    return threshold


def mean_squared(found: Observed) -> float:
    """The least sum of squared errors, of rounding within and of clipping beyond."""
    values, counts = _middles(), found.counts.astype(np.float64)
    steps = _CANDIDATES[:, None] / _LEVELS
    stored = np.minimum(np.round(values / steps), _LEVELS) * steps
    return _scaled(found, np.square(values - stored) @ counts)


def entropy(found: Observed) -> float:
    """The least Kullback-Leibler divergence between the clipped distribution and its 127 levels (Migacz, GTC 2017).

    Zeros, of which a ReLU makes half of all values, are left out: they are stored as they are, wherever the threshold lies.
    """
    counts = found.counts.astype(np.float64)
    counts[0] = 0.0
    return _scaled(found, np.array([_lost(counts, int(end)) for end in _CANDIDATES])) if counts.any() else found.largest


# The order decides between equals.
METHODS: Mapping[str, Method] = {
    "MinMax": largest,
    "Percentile 99.999": percentile(99.999),
    "Percentile 99.99": percentile(99.99),
    "Percentile 99.9": percentile(99.9),
    "MSE": mean_squared,
    "Entropy": entropy,
}


def _lost(counts: NDArray[np.float64], end: int) -> float:
    kept = counts[:end].copy()
    levels = np.minimum((np.arange(end) + 0.5) * _LEVELS / end, _LEVELS - 1).astype(int)
    filled = kept > 0
    sums = np.bincount(levels, kept, _LEVELS)
    shares = np.bincount(levels[filled], minlength=_LEVELS)
    stored = np.where(filled, sums[levels] / np.maximum(shares[levels], 1), 0.0)
    kept[-1] += counts[end:].sum()  # what is clipped is stored as the last level
    if not stored[-1]:
        stored[-1] = 1e-12 * max(kept.sum(), 1.0)
    return float(rel_entr(kept / kept.sum(), stored / stored.sum()).sum())


def _scaled(found: Observed, losses: NDArray[np.float64]) -> float:
    """The threshold of the least loss; of equals the widest."""
    best = len(losses) - 1 - int(np.argmin(losses[::-1]))
    return found.largest * float(_CANDIDATES[best]) / BINS


def _middles() -> NDArray[np.float64]:
    return np.arange(BINS, dtype=np.float64) + 0.5
