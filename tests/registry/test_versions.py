"""Which version is the newer one."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from service.registry.versions import age


@pytest.mark.parametrize(
    "versions",
    [
        ("1", "2", "10"),
        ("1.9.0", "1.10.0", "1.10.1", "2.0.0"),
        ("0.9", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1"),
        ("2.0rc1", "2.0rc2", "2.0", "2.0.1"),
        ("v1", "v2", "v10"),
        ("2024-05-01", "2024-06-01", "2025-01-15"),
        ("20240501", "20240601"),
        ("latest", "1"),
    ],
)
def test_the_newest_of_versions_is_that_with_the_largest_number(versions: tuple[str, ...]) -> None:
    shuffled = list(versions)
    random.Random(7).shuffle(shuffled)
    assert tuple(sorted(shuffled, key=age)) == versions
    assert all(age(older) < age(newer) for older, newer in pairwise(versions))


def test_equal_releases_still_have_one_order() -> None:
    same = ["1.0+b", "1.0", "1", "1.0.0", "1.0+a"]
    turned = same[::-1]
    assert sorted(same, key=age) == sorted(turned, key=age)
    assert len({age(version)[0] for version in same}) == 1
