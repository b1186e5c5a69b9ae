"""What the presentation times of all frames of a video say of it: how long it runs, how fast, and what is odd about it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.media.capture import DEFAULT_FPS

# A step between frames this many times the median one is a gap.
GAP = 2.5


def end_s(times_s: Sequence[float]) -> float:
    """When the last frame ends."""
    return max(times_s) + _period(times_s)


def fps(times_s: Sequence[float]) -> float:
    return round(1.0 / _period(times_s), 3)


def oddities(times_s: Sequence[float], *, untimed: int, claimed: int) -> tuple[str, ...]:
    """A sentence for each thing that is odd; `untimed` frames came without a time, the header claims `claimed` frames."""
    texts = []
    times = np.asarray(times_s)
    if 0 < claimed != len(times):
        less = "; the rest is missing, damaged or cut by an edit list" if len(times) < claimed else ""
        texts.append(f"the header claims {claimed} frames, {len(times)} were decoded{less}")
    if untimed and untimed == len(times) - 1:
        texts.append("the stream carries no presentation times; they were derived from its frame rate")
    steps = np.diff(times)
    if (steps <= 0).any():
        at = int(np.argmax(steps <= 0))
        texts.append(
            f"presentation times step backwards or stand still {int((steps <= 0).sum())} times, first at frame {at + 1}"
        )
    forward = steps[steps > 0]
    if len(forward):
        gaps = steps > GAP * float(np.median(forward))
        if gaps.any():
            at = int(np.argmax(gaps))
            longest = float(steps[gaps].max())
            texts.append(
                f"{int(gaps.sum())} gaps in presentation times, the longest {longest:.3f} s, first after frame {at} "
                f"at {times[at]:.3f} s"
            )
    return tuple(texts)


def _period(times_s: Sequence[float]) -> float:
    """Seconds that a frame is shown, on average; a single frame is taken for one of 25 a second."""
    span = max(times_s) - times_s[0]
    return span / (len(times_s) - 1) if span > 0 else 1.0 / DEFAULT_FPS
