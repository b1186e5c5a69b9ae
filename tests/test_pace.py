"""How fast work goes, by kind."""

from __future__ import annotations

import pytest

from service.pace import Pace


def test_each_kind_has_its_own_pace_and_an_unknown_one_costs_nothing() -> None:
    pace: Pace[str] = Pace()
    pace.note("heavy", units=4, seconds=2)
    pace.note("light", units=100, seconds=0.1)
    assert (pace.seconds("heavy", 3), pace.seconds("light", 3)) == (1.5, pytest.approx(0.003))
    assert pace.seconds("unseen", 1000) == 0
    assert (pace.most("heavy", 1.1), pace.most("unseen", 1)) == (pytest.approx(2.2), float("inf"))


def test_the_mean_follows_what_is_measured_within_a_few_batches() -> None:
    pace: Pace[str] = Pace()
    pace.note("a", units=1, seconds=1)
    for _ in range(15):
        pace.note("a", units=10, seconds=1)
    assert pace.seconds("a", 1) == pytest.approx(0.1, rel=0.4)
    pace.note("a", units=1, seconds=5)
    assert pace.seconds("a", 1) < 1.2, "one batch that was held up is not yet a trend"
