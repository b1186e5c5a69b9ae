"""Paired differences against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.judging.paired import difference


def answers(both: int, first: int, second: int, none: int) -> tuple[np.ndarray, np.ndarray]:
    """So many samples that both have right, that one alone has right, that none has."""
    one = [True] * (both + first) + [False] * (second + none)
    other = [True] * both + [False] * first + [True] * second + [False] * none
    return np.array(one), np.array(other)


def test_the_difference_has_bonett_and_prices_interval_and_mcnemars_exact_p() -> None:
    # Airway hyper-responsiveness before and after, of 21 children (Bentur et al. 2009): 1, 1, 7, 12. By hand: (8 - 2)/23 = 0.2609,
    # ± 1.96·sqrt((10/23 - 0.2609²)/23) = ± 0.2475; p = 2·(1 + 8)/2⁸.
    found = difference(*answers(1, 1, 7, 12))
    assert (found.n, found.gained, found.lost) == (21, 7, 1)
    assert found.value == pytest.approx(6 / 21)
    assert found.interval == pytest.approx((0.0134, 0.5084), abs=1e-3)
    assert found.p == pytest.approx(18 / 256)


def test_whichever_comes_first_only_the_sign_changes() -> None:
    one, other = answers(40, 9, 2, 4)
    there, back = difference(one, other), difference(other, one)
    assert there.value == -back.value
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert there.p == back.p


def test_classifiers_that_never_differ_are_told_apart_by_nothing_but_still_have_an_interval() -> None:
    found = difference(*answers(30, 0, 0, 2))
    assert (found.value, found.p) == (0, 1)
    assert found.interval[0] < 0 < found.interval[1]


def test_answers_to_different_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="answers to 3 and to 4 samples cannot be paired"):
        difference(np.ones(3, bool), np.ones(4, bool))
