"""Who comes in: places, rows, bytes and the wait ahead, with lines that the test makes up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from service.admission import Admission, Reason
from service.errors import Draining, Overloaded
from service.pace import Line
from service.priority import Priority

NOBODY = Line()


@dataclass
class House:
    """An admission, what it is told of the lines, and what it said of refusals."""

    device: dict[Priority, Line] = field(default_factory=lambda: {"interactive": NOBODY, "bulk": NOBODY})
    decoders: Line = NOBODY
    devices: int = 1
    reasons: list[Reason] = field(default_factory=list)
    ready: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.admission = Admission(
            max_requests=3,
            max_rows=100,
            max_bytes=1000,
            max_wait_s=0.1,
            device=lambda priority: self.device[priority],
            decoders=lambda _priority: self.decoders,
            devices=lambda: self.devices,
            ready=lambda: self.ready(),  # noqa: PLW0108  # the tests change it
            refused=self.reasons.append,
        )

    def wait(self, *, interactive: Line = NOBODY, bulk: Line = NOBODY) -> None:
        self.device = {"interactive": interactive, "bulk": bulk}


@pytest.fixture
def house() -> House:
    return House()


def test_every_place_that_is_taken_comes_back(house: House) -> None:
    tickets = [house.admission.enter() for _ in range(3)]
    with pytest.raises(Overloaded, match="3 requests are in progress, the limit is 3"):
        house.admission.enter()
    tickets[0].close()
    tickets[0].close()
    with house.admission.enter() as ticket:
        ticket.hold(500)
        ticket.queue(50, seconds=0.01)
        assert (house.admission.requests, house.admission.rows, house.admission.bytes) == (3, 50, 500)
    for left in tickets[1:]:
        left.close()
    assert (house.admission.requests, house.admission.rows, house.admission.bytes) == (0, 0, 0)
    assert house.admission.wait_s("bulk") == 0
    assert house.reasons == ["requests"]


def test_a_request_that_would_wait_longer_than_the_limit_is_refused_and_told_when_to_come_back(house: House) -> None:
    house.wait(interactive=Line(0.04, 0.025))
    house.admission.enter().close()
    house.wait(interactive=Line(2.6, 0.03))
    with pytest.raises(Overloaded, match=r"takes up to 3814 ms, and this request may wait for 100 ms") as refusal:
        house.admission.enter()
    assert refusal.value.retry_after_s == pytest.approx(3.7135)
    assert house.reasons == ["wait"]


def test_while_nothing_waits_a_request_is_taken_however_long_the_work_under_way(house: House) -> None:
    house.wait(interactive=Line(0, 30))
    house.decoders = Line(0, 30)
    with house.admission.enter() as ticket:
        ticket.queue(1, seconds=0.01)
        with pytest.raises(Overloaded):
            house.admission.enter()


def test_the_decoders_and_the_device_are_waited_for_one_after_the_other(house: House) -> None:
    house.wait(interactive=Line(0.04, 0.02))
    house.decoders = Line(0.03, 0.02)
    with pytest.raises(Overloaded, match="up to 160 ms"):
        house.admission.enter()
    house.admission.enter(decodes=False).close()


def test_what_is_accepted_and_still_being_decoded_is_work_ahead(house: House) -> None:
    first = house.admission.enter()
    first.queue(10, seconds=0.15)
    with pytest.raises(Overloaded, match="up to 218 ms"):
        house.admission.enter()
    first.decoded()
    house.admission.enter().close()
    first.close()


def test_rows_that_two_devices_share_are_half_the_wait() -> None:
    house = House(devices=2)
    house.admission.enter().queue(10, seconds=0.13)
    house.admission.enter().close()


def test_bulk_waits_up_to_its_deadline_and_behind_everybody(house: House) -> None:
    house.wait(interactive=Line(0.01), bulk=Line(5))
    house.admission.enter(priority="interactive").close()
    house.admission.enter(priority="bulk", deadline_s=8).close()
    with pytest.raises(Overloaded, match=r"may wait for 4000 ms; retry later, allow more by timeout_ms") as refusal:
        house.admission.enter(priority="bulk", deadline_s=4)
    assert refusal.value.retry_after_s == pytest.approx(3.25)


def test_bulk_that_is_being_decoded_keeps_no_interactive_request_out(house: House) -> None:
    house.admission.enter(priority="bulk").queue(50, seconds=9)
    house.admission.enter().close()
    with pytest.raises(Overloaded):
        house.admission.enter(priority="bulk", deadline_s=1)


def test_a_deadline_shorter_than_the_wait_is_refused_before_it_costs_anything(house: House) -> None:
    house.wait(interactive=Line(0.05))
    with pytest.raises(Overloaded, match="may wait for 20 ms; retry later, allow more by timeout_ms"):
        house.admission.enter(deadline_s=0.02)


def test_whoever_dawdles_over_an_upload_takes_no_place_in_the_line(house: House) -> None:
    slow = house.admission.enter()
    house.admission.enter().close()
    house.wait(interactive=Line(0.3))
    with pytest.raises(Overloaded, match="up to 435 ms"):
        slow.queue(10, seconds=0.1)
    assert house.admission.rows == 0
    slow.close()


def test_time_spent_on_the_upload_is_taken_off_the_deadline(house: House) -> None:
    slow = house.admission.enter(priority="bulk", deadline_s=0.2)
    house.wait(bulk=Line(0.15))
    time.sleep(0.1)
    with pytest.raises(Overloaded, match="may wait for"):
        slow.queue(10)


def test_a_deadline_that_passed_during_the_upload_is_no_overload_while_nothing_waits(house: House) -> None:
    slow = house.admission.enter(deadline_s=-1)
    slow.queue(10)
    assert house.reasons == []


def test_a_request_that_was_accepted_is_not_told_that_the_service_stops(house: House) -> None:
    def stop() -> None:
        raise Draining("the service is stopping", retry_after_s=1)

    ticket = house.admission.enter()
    house.ready = stop
    ticket.queue(5)
    with pytest.raises(Draining):
        house.admission.enter()


def test_rows_and_bytes_beyond_the_limit_are_refused_unless_nobody_else_has_any(house: House) -> None:
    with house.admission.enter() as large:
        large.hold(5000)
        large.hold(5000)
        large.queue(500)
    first, second = house.admission.enter(), house.admission.enter()
    first.hold(600)
    first.queue(60)
    with pytest.raises(Overloaded, match="hold 600 bytes, this one needs 500 more, the limit is 1000"):
        second.hold(500)
    with pytest.raises(Overloaded, match="have 60 frames, this one has 50, the limit is 100"):
        second.queue(50)
    second.hold(400)
    second.queue(40)
    assert house.reasons == ["bytes", "rows"]


def test_when_to_come_back_follows_from_how_long_requests_stay(house: House) -> None:
    tickets = [house.admission.enter() for _ in range(3)]
    house.admission.leave(stayed_s=9)
    house.admission.requests += 1
    with pytest.raises(Overloaded) as refusal:
        house.admission.enter()
    assert refusal.value.retry_after_s == pytest.approx(3), "three that stay 9 s: one leaves every 3 s"
    for ticket in tickets:
        ticket.close()


def test_a_retry_is_never_asked_for_within_the_second(house: House) -> None:
    house.wait(interactive=Line(0.11))
    with pytest.raises(Overloaded) as refusal:
        house.admission.enter()
    assert refusal.value.retry_after_s == 1
