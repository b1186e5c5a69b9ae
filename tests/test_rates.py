"""Token buckets: a burst of a second's worth, then the rate, for each caller alone."""

from __future__ import annotations

import pytest

from service.rates import Rates, caller_of


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_of_one_seconds_worth_then_the_rate() -> None:
    clock = Clock()
    rates = Rates(5, clock=clock)
    assert [rates.take("a") for _ in range(5)] == [0.0] * 5
    assert rates.take("a") == pytest.approx(0.2)
    clock.now += 0.2
    assert rates.take("a") == 0
    assert rates.take("a") == pytest.approx(0.2)
    passed = 0
    for _ in range(1000):
        clock.now += 0.01
        passed += rates.take("a") == 0
    assert passed == pytest.approx(50, abs=1)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    clock = Clock()
    rates = Rates(2, clock=clock)
    rates.take("a")
    clock.now += 3600
    assert [rates.take("a") == 0 for _ in range(4)] == [True, True, False, False]


def test_less_than_one_request_a_second_still_lets_the_first_one_through() -> None:
    clock = Clock()
    rates = Rates(0.1, clock=clock)
    assert rates.take("a") == 0
    assert rates.take("a") == pytest.approx(10)
    clock.now += 9.9
    assert rates.take("a") == pytest.approx(0.1)
    clock.now += 0.11
    assert rates.take("a") == 0


def test_callers_do_not_share_and_one_may_have_its_own_rate() -> None:
    rates = Rates(1, clock=Clock())
    assert rates.take("a") == 0
    assert rates.take("a") > 0
    assert rates.take("b") == 0
    assert [rates.take("c", rate=3) == 0 for _ in range(4)] == [True, True, True, False]


def test_without_a_rate_nobody_waits_nor_is_remembered() -> None:
    rates = Rates(None)
    assert {rates.take("a") for _ in range(1000)} == {0.0}
    assert len(rates) == 0
    assert rates.take("b", rate=1) == 0
    assert rates.take("b", rate=1) > 0, "a key's own rate holds all the same"


def test_the_table_is_bounded_and_forgets_who_has_not_asked_for_longest() -> None:
    rates = Rates(1, clock=Clock(), max_callers=3)
    for caller in "abc":
        rates.take(caller)
    assert rates.take("a") > 0
    rates.take("d")
    assert len(rates) == 3
    assert rates.take("a") > 0, "a asked since b and c did"
    assert rates.take("b") == 0, "b was forgotten"


@pytest.mark.parametrize(
    ("host", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        (":", ":"),
    ],
)
def test_an_ipv6_subscriber_is_one_caller(host: str, caller: str) -> None:
    assert caller_of(host) == caller
