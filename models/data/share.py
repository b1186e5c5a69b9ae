"""A part of a split, as if fewer data had been collected: whole groups, every class in its share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from models.data.sample import Sample


def share_of(samples: Sequence[Sample], *, share: float, seed: int) -> tuple[Sample, ...]:
    """Some of `samples`, in their order: of each class about `share` (of every class one group at least), groups whole.

    Groups are gone through in an order that `seed` alone decides, and one is taken where it brings the classes nearer to
    their share: where each sample is a group of its own, the shares are met to the sample, and a smaller share of the same
    seed lies within a larger one.
    """
    groups: dict[str, Counter[str]] = {}
    for sample in samples:
        groups.setdefault(sample.group, Counter())[sample.label] += 1
    lacking = {
        label: max(1, round(count * share)) for label, count in Counter(sample.label for sample in samples).items()
    }
    names = sorted(groups)
    order = [names[number] for number in np.random.default_rng(seed).permutation(len(names))]
    taken: set[str] = set()
    held: set[str] = set()
    for name in order:
        found = groups[name]
        if sum(abs(lacking[label]) - abs(lacking[label] - count) for label, count in found.items()) > 0:
            _take(name, found, lacking, taken, held)
    for label in sorted(set(lacking) - held):  # its groups are all so large that none came nearer
        name = min((each for each in order if label in groups[each]), key=lambda each: groups[each].total())
        _take(name, groups[name], lacking, taken, held)
    return tuple(sample for sample in samples if sample.group in taken)


def _take(name: str, found: Counter[str], lacking: dict[str, int], taken: set[str], held: set[str]) -> None:
    taken.add(name)
    held |= found.keys()
    for label, count in found.items():
        lacking[label] -= count
