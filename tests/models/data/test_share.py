"""A share of a split is of every class, of whole groups, and the same for the same seed."""

from collections import Counter
from pathlib import Path

import pytest

from models.data.sample import Sample
from models.data.share import share_of


def samples(sizes: dict[str, int], *, per_group: int = 1) -> list[Sample]:
    return [
        Sample(Path(f"{label}{number}.png"), None, label, f"{label}{number // per_group}", "train")
        for label, size in sizes.items()
        for number in range(size)
    ]


def test_samples_of_their_own_are_taken_to_the_number_of_each_class() -> None:
    taken = share_of(samples({"a": 100, "b": 55, "c": 3}), share=0.1, seed=0)
    assert Counter(sample.label for sample in taken) == {"a": 10, "b": 6, "c": 1}


def test_the_seed_decides_which_and_a_smaller_share_lies_within_a_larger() -> None:
    found = samples({"a": 100, "b": 50})
    tenth, fifth = (set(share_of(found, share=share, seed=0)) for share in (0.1, 0.2))
    assert tenth < fifth
    assert tenth == set(share_of(found, share=0.1, seed=0))
    assert tenth != set(share_of(found, share=0.1, seed=1))


def test_groups_stay_whole_and_the_shares_are_met_as_nearly_as_that_allows() -> None:
    found = samples({"a": 200, "b": 100}, per_group=5)
    taken = share_of(found, share=0.2, seed=0)
    assert Counter(sample.label for sample in taken) == {"a": 40, "b": 20}
    kept = {sample.group for sample in taken}
    assert [sample for sample in found if sample.group in kept] == list(taken)


def test_a_class_whose_groups_are_all_too_large_keeps_its_smallest() -> None:
    found = samples({"a": 100}) + [
        Sample(Path(f"b{n}"), None, "b", "small" if n < 30 else "big", "train") for n in range(90)
    ]
    taken = share_of(found, share=0.05, seed=0)
    assert Counter(sample.label for sample in taken) == {"a": 5, "b": 30}


def test_groups_that_hold_two_classes_bring_both() -> None:
    found = [Sample(Path(f"{n}"), None, "ab"[n % 2], f"scene{n // 4}", "train") for n in range(200)]
    counts = Counter(sample.label for sample in share_of(found, share=0.3, seed=0))
    assert counts["a"] == counts["b"]
    assert counts["a"] == pytest.approx(30, abs=2)
