"""Two classifiers on the very same samples: how far they differ, and whether that may be chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Difference:
    """`value`: accuracy of the second minus that of the first, with a 95 % interval; `gained`: samples that the second alone has right,
    `lost`: those that the first alone has. `p`: of McNemar's exact test.
    """

    n: int
    gained: int
    lost: int
    value: float
    interval: tuple[float, float]
    p: float


def difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Difference:
    """Of the right answers `[n]` of two classifiers to the same samples; raises ValueError where they are not as many.

    The interval is Bonett & Price's (2012): Wald's with a half added to each of the four cells, which holds its level on few samples, too.
    """
    if first.shape != second.shape or not len(first):
        raise ValueError(
            f"answers to {len(first)} and to {len(second)} samples cannot be paired; judge both on one split"
        )
    n, gained, lost = len(first), int((second & ~first).sum()), int((first & ~second).sum())
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = _Z * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    low, high = max(-1.0, float(up - down - half)), min(1.0, float(up - down + half))
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Difference(n, gained, lost, (gained - lost) / n, (low, high), p)
