"""Whether a confidence can be believed: how often what was named with it is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.export.report.table import markdown_table

BINS = 15
PICTURE = "reliability.png"
_DRAWS = 1000


def reliability(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, Any]:
    """Of `probabilities` `[n, K]` against `truth` `[n]`: the expected calibration error and the bins that hold samples.

    `ece`: Σ n_bin/n · |accuracy − mean confidence| over 15 equal bins (from, to] of the named class's probability (Guo et al.
    2017). `chance_ece`: the mean of what a network of these very confidences shows at this n though all of them are true, by
    1,000 draws of one seed; an ECE near it cannot be told from none.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    places = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    bins = [
        {
            "from": place / BINS,
            "to": (place + 1) / BINS,
            "n": int(chosen.sum()),
            "confidence": float(confidence[chosen].mean()),
            "accuracy": float(right[chosen].mean()),
        }
        for place in range(BINS)
        if (chosen := places == place).any()
    ]
    rng = np.random.default_rng(0)
    drawn = [_error(places, confidence, rng.random(len(truth)) < confidence) for _ in range(_DRAWS)]
    return {
        "n": len(truth),
        "accuracy": float(right.mean()),
        "confidence": float(confidence.mean()),
        "ece": _error(places, confidence, right),
        "chance_ece": float(np.mean(drawn)),
        "bins": bins,
    }


def reliability_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The section for a person: `rows` are those of `reliability`, each with its engine, precision and split."""
    if not rows:
        return []
    cells = [
        [
            f"{row['engine']} {row['precision']}",
            f"{row['split']} ({row['n']})",
            f"{row['accuracy']:.1%}",
            f"{row['confidence']:.1%}",
            f"{row['ece']:.3f}",
            f"{row['chance_ece']:.3f}",
        ]
        for row in rows
    ]
    titles = ["engine", "split (n)", "accuracy", "mean confidence", "ECE", "ECE by chance"]
    what = (
        f"Confidence is the probability of the class that is named. ECE is the mean distance between confidence and accuracy over {BINS} bins "
        "(Guo et al. 2017); by chance: what true confidences show at this n on average. An ECE near that is no evidence of a fault."
    )
    return [*markdown_table(titles, cells), "", what, "", f"![Reliability: accuracy by confidence]({PICTURE})"]


def _error(places: NDArray[np.int64], confidence: NDArray[np.float64], right: NDArray[Any]) -> float:
    return float(np.abs(np.bincount(places, weights=right - confidence, minlength=BINS)).sum() / len(places))
