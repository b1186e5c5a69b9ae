"""Canary weights: the share of each version of a name in the requests that name no version."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from service.errors import InvalidParameter

# By version. Those that are not named have no share.
Weights = Mapping[str, float]

_FORM = "write NAME:VERSION=SHARE, such as fight:1=9,fight:2=1"


def parse(items: Iterable[str]) -> dict[str, Weights]:
    """`NAME:VERSION=SHARE` … as weights by name. Raises InvalidParameter with what is wrong."""
    found: dict[str, dict[str, float]] = {}
    for item in items:
        model, equals, text = item.rpartition("=")
        name, colon, version = model.partition(":")
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        if not (equals and colon and name and version) or math.isnan(share):
            raise InvalidParameter(f"the weight {item!r} cannot be read; {_FORM}")
        if version in found.setdefault(name, {}):
            raise InvalidParameter(f"the weights name {name}:{version} twice; leave one out")
        found[name][version] = share
    for name, weights in found.items():
        check(name, weights)
    return dict(found)


def check(name: str, weights: Weights) -> None:
    """Raise InvalidParameter unless requests can be shared out by `weights`."""
    for version, share in weights.items():
        if not 0 <= share < math.inf:
            raise InvalidParameter(f"the share of {name}:{version} is {share:g}; give a number from 0 up")
    if not 0 < sum(weights.values()) < math.inf:
        raise InvalidParameter(f"the shares of {name} are {sum(weights.values()):g} in all; give a sum above 0")


def shares(weights: Weights | None, versions: Sequence[str]) -> dict[str, float]:
    """The share of each of `versions`, newest first, that can be served: in all 1.

    Without weights the newest has all. What a version that cannot be served would have had falls to the others, and where none of
    those has a share, to the newest.
    """
    given = {version: (weights or {}).get(version, 0.0) for version in versions}
    total = sum(given.values())
    if not total > 0:
        return {version: float(version == versions[0]) for version in versions}
    return {version: share / total for version, share in given.items()}


def draw(weights: Weights | None, versions: Sequence[str], *, random: Callable[[], float]) -> str:
    """One of `versions`, newest first, as its share would have it; `random()` is uniform in [0, 1)."""
    if not weights or len(versions) == 1:
        return versions[0]
    left = random()
    found = shares(weights, versions)
    for version, share in found.items():
        left -= share
        if left < 0:
            return version
    return max(found, key=found.__getitem__)  # sums of floats may fall short of 1 by a rounding
