"""Whether a model answers as it did, its latest answers against its first ones; and whether INT8 is given what it was calibrated on.

# Note [What the index says]
The population stability index compares two distributions: Σ (p - q) ln(p / q). Of the probability of the top class it takes ten
bins that the first answers fill evenly, of the classes the most frequent ones and all others. Below 0.1 nothing has changed that
can be told from chance, above 0.25 something has: a camera was moved, a lens is dirty, another audience uploads. It says that
what is asked has changed, or the model's view of it, and not that answers are wrong: nobody here knows the right ones.
Whatever comes first is taken for normal, and a restart begins anew: the classes of a calibration set are balanced by hand, so
that real traffic would differ from them on the first day.

# Note [What the index says of inputs]
What INT8 was calibrated on does not change with a restart, so `Shift` compares with that. The index tells any difference: a single
camera that shows a part of what the calibration knew raises it, too, and is no harm. What INT8 may cut off are values outside
the range of all calibration frames; where n clips were calibrated on, 2 in n + 1 of the same kind lie there.
A calibration of few clips knows its own bins badly, which alone makes the index nine over their number. Of `imagenet`, with its
200 photos, it is 0.07 for brightness and 0.06 for contrast of the 600 photos of test, and above 4 and 3 when they are half as
bright; of `fight`, with four frames of each of 128 clips, it is 0.7 and 0.6 for the 55 clips of test, cut from other videos, and 3.6 and
3.9 at half the brightness: there only a change of the index means something.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from statistics import quantiles

# Answers in the reference, and in the view that is compared with it. Of two such samples of one distribution in ten bins the
# index is 0.018 on average.
SAMPLE = 1000
BINS = 10
CLASSES = 20
# Inputs before anything is said: of so many of the same distribution the index is 0.045 on average, and rarely above 0.1.
ENOUGH = 200


class Drift:
    """Of one model. `note` each answer; the index is None until the reference and the view are both full."""

    def __init__(self, *, sample: int = SAMPLE) -> None:
        self._sample = sample
        self._first: list[tuple[int, float]] = []
        self._edges: list[float] = []
        self._known: dict[int, int] = {}
        self._reference: tuple[list[int], list[int]] = ([], [])
        self._counts: tuple[list[int], list[int]] = ([], [])
        self._latest: deque[tuple[int, int]] = deque()

    def note(self, class_id: int, probability: float) -> None:
        """The top class of an answer, and its probability."""
        if len(self._first) < self._sample:
            self._first.append((class_id, probability))
            if len(self._first) == self._sample:
                self._begin()
            return
        bins = self._bins(class_id, probability)
        self._latest.append(bins)
        _count(self._counts, bins, 1)
        if len(self._latest) > self._sample:
            _count(self._counts, self._latest.popleft(), -1)

    @property
    def of_classes(self) -> float | None:
        return self._index(0)

    @property
    def of_probability(self) -> float | None:
        return self._index(1)

    def _begin(self) -> None:
        frequent = Counter(class_id for class_id, _ in self._first).most_common(CLASSES)
        self._known = {class_id: number for number, (class_id, _) in enumerate(frequent)}
        # Equal edges, as of a model that is always sure, would make bins that nothing falls into.
        self._edges = sorted(
            set(quantiles((probability for _, probability in self._first), n=BINS, method="inclusive"))
        )
        sizes = len(self._known) + 1, len(self._edges) + 1
        self._reference = ([0] * sizes[0], [0] * sizes[1])
        self._counts = ([0] * sizes[0], [0] * sizes[1])
        for class_id, probability in self._first:
            _count(self._reference, self._bins(class_id, probability), 1)

    def _bins(self, class_id: int, probability: float) -> tuple[int, int]:
        return self._known.get(class_id, len(self._known)), bisect_right(self._edges, probability)

    def _index(self, which: int) -> float | None:
        if len(self._latest) < self._sample:
            return None
        return stability_index(tuple(self._reference[which]), tuple(self._counts[which]))


class Shift:
    """Of one measure of inputs. `note` each value; index and share are None until there are `ENOUGH`, then they are of the latest `SAMPLE`.

    `points`: the least, the nine inner deciles and the greatest value of the calibration. See Note [What the index says of inputs].
    """

    def __init__(self, points: Sequence[float]) -> None:
        self._least, *edges, self._greatest = points
        # Where all deciles are one value it gets a bin of its own: what is brighter than black is not black.
        self._edges = sorted({*edges, math.nextafter(edges[0], math.inf)} if len(set(edges)) == 1 else set(edges))
        self._reference = [0] * (len(self._edges) + 1)
        for low in points[:-1]:  # a tenth of the frames lie from each point on, below the next
            self._reference[bisect_right(self._edges, low)] += SAMPLE // BINS
        self._counts = [0] * len(self._reference)
        self._beyond = 0
        self._latest: deque[tuple[int, bool]] = deque()

    def note(self, value: float) -> None:
        number, beyond = bisect_right(self._edges, value), not self._least <= value <= self._greatest
        self._latest.append((number, beyond))
        self._counts[number] += 1
        self._beyond += beyond
        if len(self._latest) > SAMPLE:
            number, beyond = self._latest.popleft()
            self._counts[number] -= 1
            self._beyond -= beyond

    @property
    def index(self) -> float | None:
        """The population stability index."""
        if len(self._latest) < ENOUGH:
            return None
        return stability_index(tuple(self._reference), tuple(self._counts))

    @property
    def outside(self) -> float | None:
        """The share of values outside the range of the calibration."""
        count = len(self._latest)
        return self._beyond / count if count >= ENOUGH else None


def stability_index(reference: tuple[int, ...], found: tuple[int, ...]) -> float:
    """Of two histograms with the same bins; half a count is added to each bin, so that an empty one says little and not infinity."""
    total_p, total_q = sum(found) + len(found) / 2, sum(reference) + len(reference) / 2
    shares = [((p + 0.5) / total_p, (q + 0.5) / total_q) for p, q in zip(found, reference, strict=True)]
    return sum((p - q) * math.log(p / q) for p, q in shares)


def _count(histograms: tuple[list[int], list[int]], bins: tuple[int, int], change: int) -> None:
    for histogram, number in zip(histograms, bins, strict=True):
        histogram[number] += change
