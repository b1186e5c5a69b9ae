"""Canary weights: how they are written, and that requests are shared out by them."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from service.errors import InvalidParameter
from service.registry.shares import draw, parse, shares


def test_weights_are_written_as_name_version_and_share() -> None:
    assert parse(("fight:1=9", "fight:2.0-rc1=1", "b:1=0.5")) == {"fight": {"1": 9, "2.0-rc1": 1}, "b": {"1": 0.5}}
    assert parse(()) == {}


@pytest.mark.parametrize(
    ("items", "saying"),
    [
        (("fight=9",), "the weight 'fight=9' cannot be read; write NAME:VERSION=SHARE"),
        (("fight:1",), "'fight:1' cannot be read"),
        ((":1=9",), "':1=9' cannot be read"),
        (("fight:=9",), "'fight:=9' cannot be read"),
        (("fight:1=nine",), "'fight:1=nine' cannot be read"),
        (("fight:1=nan",), "'fight:1=nan' cannot be read"),
        (("fight:1=-1", "fight:2=2"), "the share of fight:1 is -1; give a number from 0 up"),
        (("fight:1=inf",), "the share of fight:1 is inf"),
        (("fight:1=0", "fight:2=0"), "the shares of fight are 0 in all"),
        (("fight:1=1e308", "fight:2=1e308"), "the shares of fight are inf in all"),
        (("fight:1=1", "fight:1=2"), "name fight:1 twice"),
    ],
)
def test_weights_that_mean_nothing_are_refused_with_their_words(items: tuple[str, ...], saying: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        parse(items)
    assert saying in str(error.value)


def test_requests_are_drawn_by_share() -> None:
    chance = random.Random(3).random
    drawn = Counter(draw({"1": 9, "2": 1, "3": 0}, ("3", "2", "1"), random=chance) for _ in range(10_000))
    assert set(drawn) == {"1", "2"}
    assert drawn["2"] == pytest.approx(1000, abs=120)


def test_without_weights_the_newest_has_all() -> None:
    assert shares(None, ("2", "1")) == {"2": 1, "1": 0}
    chance = random.Random(3).random
    assert {draw(None, ("2", "1"), random=chance) for _ in range(50)} == {"2"}


def test_what_a_version_that_is_not_served_would_have_had_falls_to_the_others() -> None:
    assert shares({"1": 6, "2": 3, "3": 3}, ("3", "1")) == pytest.approx({"3": 1 / 3, "1": 2 / 3})
    assert shares({"1": 6}, ("3", "2")) == {"3": 1, "2": 0}


@pytest.mark.parametrize("almost_one", [1.0, 1 - 2**-53])
def test_a_draw_at_the_very_end_is_one_of_those_with_a_share(almost_one: float) -> None:
    assert draw({"1": 0.1, "2": 0.2, "3": 0}, ("3", "2", "1"), random=lambda: almost_one) in {"1", "2"}
