"""`golden.npz`: a few clips of no one's with the reference's answers, so that any engine can be proved without TensorFlow."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.export.networks import Answering
from models.synthetic import synthetic_clips
from service.bundle.store import GoldenClips

_CLIPS, _CANDIDATES = 3, 24


def synthetic_answers(reference: Answering, *, count: int, frames: int, seed: int) -> GoldenClips:
    """`count` synthetic clips of `frames` frames and what `reference` says to them."""
    height, width, channels = reference.frame_shape
    return reference.answers(
        synthetic_clips(count=count, frames=frames, height=height, width=width, channels=channels, seed=seed)
    )


def shift(reference: Answering, change: Callable[[], object], *, frames: int, seed: int) -> float:
    """By how much `change`, made to `reference`, moves its probabilities."""
    before = synthetic_answers(reference, count=_CLIPS, frames=frames, seed=seed).probabilities
    change()
    after = synthetic_answers(reference, count=_CLIPS, frames=frames, seed=seed).probabilities
    return float(np.abs(after - before).max())


def golden_clips(reference: Answering, *, frames: int, seed: int) -> tuple[GoldenClips, float]:
    """Of two dozen synthetic clips the three whose answers differ most, and the least |Δp| between any two of them."""
    all_ = synthetic_answers(reference, count=_CANDIDATES, frames=frames, seed=seed)
    apart = np.abs(all_.probabilities[:, None] - all_.probabilities[None]).max(axis=-1)
    chosen = [int(index) for index in np.unravel_index(int(apart.argmax()), apart.shape)]
    while len(chosen) < _CLIPS:
        chosen.append(int(apart[chosen].min(axis=0).argmax()))
    spread = float(apart[np.ix_(chosen, chosen)][~np.eye(len(chosen), dtype=bool)].min())
    features = None if all_.features is None else all_.features[chosen]
    return GoldenClips(all_.frames[chosen], features, all_.probabilities[chosen]), spread


def npz(golden: GoldenClips) -> bytes:
    """`golden.npz`; NumPy dates its entries 1980, so that the same arrays are the same bytes."""
    buffer = io.BytesIO()
    arrays: dict[str, NDArray[Any]] = {"frames": golden.frames, "probabilities": golden.probabilities}
    if golden.features is not None:
        arrays["features"] = golden.features
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
