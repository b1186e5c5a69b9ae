"""The readings that there are, and how well each fits: by the running statistics of a BatchNormalization, or by custom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.export.normalization import Channels, Normalization
from models.readings.activations import Seen

Ask = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # clips [B, T, H, W, C] as fed → probabilities [B, K]
Look = Callable[[NDArray[np.float32]], Seen | None]  # … → what its first BatchNormalization sees
_COLOR = ("0/255", "tf", "none", "torch", "caffe")  # from the most common on
_GRAY = ("0/255", "tf", "none")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One reading, tried. `answers` `[n, K]` to each sample clip; `distance` from training, where a BatchNormalization tells."""

    preprocess: str
    color: Channels
    answers: NDArray[np.float32]
    distance: float | None
    judge: str | None  # the name of that BatchNormalization

    @property
    def flags(self) -> str:
        return f"--preprocess {self.preprocess} --color {self.color}"


def candidates(
    clips: Sequence[NDArray[np.uint8]],
    *,
    ask: Ask,
    look: Look,
    color: Channels | None,
    expected: str | None,
) -> list[Candidate]:
    """Every reading tried on `clips` `[T, H, W, C]`, the likeliest first.

    `color`: what the user said, None for rgb and bgr both. `expected`: what the model's family takes; where no BatchNormalization
    tells it stands first, and the order is that of custom.
    """
    gray = clips[0].shape[-1] == 1
    names = _GRAY if gray else _COLOR
    ordered = sorted(names, key=lambda name: name != expected)
    found = [
        _try(name, each, clips, ask=ask, look=look) for name in ordered for each in _colors(name, color, gray=gray)
    ]
    if all(each.distance is not None for each in found):
        return sorted(found, key=lambda each: each.distance or 0.0)
    # Without statistics nothing tells red from blue: what is customary for each stands before the other order.
    return sorted(found, key=lambda each: each.color == "bgr" and each.preprocess != "caffe" and color is None)


def _colors(preprocess: str, color: Channels | None, *, gray: bool) -> tuple[Channels, ...]:
    if gray:
        return ("gray",)
    if preprocess == "caffe":
        return ("bgr",)
    return ("rgb", "bgr") if color is None else (color,)


def _try(preprocess: str, color: Channels, clips: Sequence[NDArray[np.uint8]], *, ask: Ask, look: Look) -> Candidate:
    normalization = Normalization.parse(preprocess, color=color)
    fed = [normalization.apply(clip) for clip in clips]
    answers = np.concatenate([ask(clip[None]) for clip in fed])
    seen = [each for each in (look(clip[None]) for clip in fed) if each is not None]
    if not seen:
        return Candidate(preprocess, color, answers, None, None)
    return Candidate(preprocess, color, answers, _joined(seen).distance, seen[0].name)


def _joined(parts: Sequence[Seen]) -> Seen:
    """The statistics of all clips together, each counting the same."""
    first = parts[0]
    mean = np.mean([each.mean for each in parts], axis=0)
    square = np.mean([each.variance + each.mean**2 for each in parts], axis=0)
    return Seen(first.name, mean, square - mean**2, first.running_mean, first.running_variance, first.epsilon)
