"""The readings that there are, and how well each fits: by the running statistics of a BatchNormalization, or by custom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.export.normalization import Channels, Normalization
from models.readings.activations import Seen

Look = Callable[
    [NDArray[np.float32]], Seen | None
]  # clips [1, T, H, W, C] as fed → what the first BatchNormalization sees
_COLOR = ("0/255", "tf", "none", "torch", "caffe")  # from the most common on
_GRAY = ("0/255", "tf", "none")
ALIKE = 0.1  # of the distance: readings nearer to each other than this cannot be told apart


@dataclass(frozen=True, slots=True)
class Candidate:
    """One reading. `distance`: from what a BatchNormalization, named `judge`, saw in training; None where there is none to tell.

    A `judge` without a distance is a layer that was never trained.
    """

    preprocess: str
    color: Channels
    distance: float | None = None
    judge: str | None = None

    @property
    def flags(self) -> str:
        return f"--preprocess {self.preprocess} --color {self.color}"

    @property
    def normalization(self) -> Normalization:
        return Normalization.parse(self.preprocess, color=self.color)


def candidates(
    clips: Sequence[NDArray[np.uint8]], *, look: Look, color: Channels | None, expected: str | None
) -> list[Candidate]:
    """Every reading tried on `clips` `[T, H, W, C]`, the likeliest first.

    `color`: what the user said, None for rgb and bgr both. `expected`: what models of this kind mostly take; where no BatchNormalization
    tells it stands first, and the order is that of custom.
    """
    gray = clips[0].shape[-1] == 1
    ordered = sorted(_GRAY if gray else _COLOR, key=lambda name: name != expected)
    found = [
        _try(Candidate(name, each), clips, look=look) for name in ordered for each in _colors(name, color, gray=gray)
    ]
    if all(each.distance is not None for each in found):
        return _rgb_first(sorted(found, key=lambda each: each.distance or 0.0))
    # Without statistics nothing tells red from blue: what is customary for each stands before the other order.
    return sorted(found, key=lambda each: each.color == "bgr" and each.preprocess != "caffe" and color is None)


def _rgb_first(found: list[Candidate]) -> list[Candidate]:
    """Where one scale leads in both orders and the statistics hardly differ, as on grey frames: the customary order."""
    first, second, *others = found
    if (
        first.preprocess != second.preprocess
        or first.color != "bgr"
        or first.distance is None
        or second.distance is None
    ):
        return found
    tied = second.distance - first.distance <= ALIKE * second.distance
    return [second, first, *others] if tied else found


def _colors(preprocess: str, color: Channels | None, *, gray: bool) -> tuple[Channels, ...]:
    if gray:
        return ("gray",)
    if preprocess == "caffe":
        return ("bgr",)
    return ("rgb", "bgr") if color is None else (color,)


def _try(candidate: Candidate, clips: Sequence[NDArray[np.uint8]], *, look: Look) -> Candidate:
    seen = [look(candidate.normalization.apply(clip)[None]) for clip in clips]
    known = [each for each in seen if each is not None]
    if not known:
        return candidate
    if known[0].untrained:
        return replace(candidate, judge=known[0].name)
    return replace(candidate, distance=_joined(known).distance, judge=known[0].name)


def _joined(parts: Sequence[Seen]) -> Seen:
    """The statistics of all clips together, each counting the same."""
    first = parts[0]
    mean = np.mean([each.mean for each in parts], axis=0)
    square = np.mean([each.variance + each.mean**2 for each in parts], axis=0)
    return Seen(first.name, mean, square - mean**2, first.running_mean, first.running_variance, first.epsilon)
