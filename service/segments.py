"""Windows of a video become segments: neighbours that say the same are one, and no moment belongs to two.

Where two windows that say different things overlap, the border lies in the middle of what they share; since windows of one
video are equally long, that is midway between their centres. Windows that do not touch stay apart, whatever they say:
nobody looked at what lies between. The probabilities of a segment are the mean over its windows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# Starts and ends are multiples of a grid's spacing in floating point: ends that meet may differ in their last digits.
_TOUCH_S = 1e-6


@dataclass(frozen=True, slots=True)
class Judged:
    """One window and what the model said of it; `probabilities` `[K]`."""

    start_s: float
    end_s: float
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Segment:
    """`probabilities` `[K]`: the mean over its `windows` windows."""

    start_s: float
    end_s: float
    windows: int
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Opened:
    """A segment that the next window may still prolong: from `start_s`, by windows of which the last ends at `end_s`.

    `said`: the classes that they agree on; `total` `[K]` float64: the sum over `windows`.
    """

    start_s: float
    end_s: float
    windows: int
    said: tuple[int, ...]
    total: NDArray[np.float64]

    def closed(self, end_s: float) -> Segment:
        return Segment(self.start_s, end_s, self.windows, (self.total / self.windows).astype(np.float32))


class Merging:
    """Takes windows in time's order, one after the other, and gives each segment as it closes.

    `multi_label`: windows agree if the same classes are above 0.5; else, if the same class is the likeliest (the first of
    equals). With `merge` off every window is a segment as it is, overlapping where windows do. `opened` is all that is
    remembered: a `Merging` that is given another's goes on where that one was.
    """

    def __init__(self, *, multi_label: bool, merge: bool = True, opened: Opened | None = None) -> None:
        self._multi_label = multi_label
        self._merge = merge
        self.opened = opened

    def add(self, window: Judged) -> Segment | None:
        """The segment that ends because of this window, if one does."""
        before, said = self.opened, said_by(window.probabilities, multi_label=self._multi_label)
        total = window.probabilities.astype(np.float64)
        alone = Opened(window.start_s, window.end_s, 1, said, total)
        if before is None:
            self.opened = alone
            return None
        touching = window.start_s <= before.end_s + _TOUCH_S
        if self._merge and touching and said == before.said:
            self.opened = replace(before, end_s=window.end_s, windows=before.windows + 1, total=before.total + total)
            return None
        if not self._merge or not touching:
            self.opened = alone
            return before.closed(before.end_s)
        border = (before.end_s + window.start_s) / 2
        self.opened = replace(alone, start_s=border)
        return before.closed(border)

    def close(self) -> Segment | None:
        """The last segment, which ends with its last window; None where there was no window."""
        before, self.opened = self.opened, None
        return before.closed(before.end_s) if before is not None else None


def said_by(probabilities: NDArray[np.float32], *, multi_label: bool) -> tuple[int, ...]:
    """What `probabilities` `[K]` say: the classes above 0.5 of a multi-label model, maybe none; else the likeliest one."""
    if multi_label:
        return tuple(int(k) for k in np.flatnonzero(probabilities > 0.5))
    return (int(np.argmax(probabilities)),)


def merged(windows: Iterable[Judged], *, multi_label: bool, merge: bool = True) -> tuple[Segment, ...]:
    """The segments of a whole video's windows, in time's order."""
    merging = Merging(multi_label=multi_label, merge=merge)
    found = [segment for window in windows if (segment := merging.add(window)) is not None]
    last = merging.close()
    return tuple(found if last is None else [*found, last])
