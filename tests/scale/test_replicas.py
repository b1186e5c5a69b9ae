"""What becomes of requests when a replica is killed, or the service is told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest

from service.bundle.store import Bundle
from tests.conftest import Served, serving
from tests.scale.conftest import ENGINE, INGRESS, Load, kill, replicas

CLIENTS = 8


@pytest.fixture
def clip(make_video: Callable[..., bytes]) -> bytes:
    return make_video("green", frames=12)


def test_requests_are_shared_out_and_the_metrics_of_all_replicas_are_told_together(
    replicated: Served, make_picture: Callable[..., bytes]
) -> None:
    sample = 'marey_requests_total{code="ok",route="/classify/image",status="200"}'
    before = replicated.counted(sample)
    for _ in range(40):
        assert replicated.post("/classify/image", make_picture("red")).status_code == 200
    assert replicated.counted(sample) - before == 40
    lines = replicated.client.get("/metrics").text.splitlines()
    answering = [
        line for line in lines if line.startswith(sample[:-1].split("{", maxsplit=1)[0]) and "/classify/image" in line
    ]
    assert len(answering) == 2  # one a replica
    running = [line for line in lines if line.startswith("marey_device_seconds_total") and "encoder" in line]
    assert len(running) == 2


async def test_no_request_is_lost_with_an_engine(replicated: Served, clip: bytes) -> None:
    load, before = Load(replicated, clip), replicas(replicated, ENGINE)
    assert len(before) == 2
    async with load.running(clients=CLIENTS):
        await load.until(lambda: load.answered >= 20)
        killed_at = time.monotonic()
        kill(before[0])
        await load.until(lambda: sum(each.sent > killed_at for each in load.asked) >= 40)
        # Another comes in its place, while requests go on.
        await load.until(lambda: len(set(replicas(replicated, ENGINE)) - set(before)) == 1)
    assert {each.status for each in load.asked} == {200}
    assert [each for each in load.asked if each.sent < killed_at < each.ended]


async def test_with_an_ingress_replica_only_what_it_held_is_lost(replicated: Served, clip: bytes) -> None:
    load, before = Load(replicated, clip), replicas(replicated, INGRESS)
    assert len(before) == 2
    async with load.running(clients=CLIENTS):
        await load.until(lambda: load.answered >= 20)
        killed_at = time.monotonic()
        kill(before[0])
        await load.until(lambda: sum(each.sent > killed_at for each in load.asked) >= 40)
        await load.until(lambda: len(set(replicas(replicated, INGRESS)) - set(before)) == 1)
    lost = [each for each in load.asked if each.status != 200]
    assert all(each.sent < killed_at for each in lost), lost
    assert len(lost) < CLIENTS  # the other replica held some of them


async def test_what_was_accepted_is_answered_before_the_service_ends(color_bundle: Bundle, clip: bytes) -> None:
    with serving(str(color_bundle.path), "--ray", "--ingress", "1", "--engines", "1") as running:
        load = Load(running, clip)
        family = psutil.Process(running.process.pid).children(recursive=True)
        # Those that come later are refused, or find nobody; so each client asks once.
        async with load.running(clients=CLIENTS):
            await load.until(lambda: load.answered >= 2 * CLIENTS)
            told_at = time.monotonic()
            running.process.terminate()
            await load.until(
                lambda: any(each.status != 200 for each in load.asked) or running.process.poll() is not None
            )
        assert all(each.status == 200 for each in load.asked if each.sent < told_at)
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
