"""What becomes of requests when a replica is killed, or the service is told to stop."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import psutil
import pytest

from service.bundle.store import Bundle
from tests.conftest import Served, serving
from tests.scale.conftest import ENGINE, INGRESS, Asked, Load, kill, replicas

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
    limits = [float(line.split()[1]) for line in lines if line.startswith("marey_queue_wait_limit_seconds")]
    assert limits == [pytest.approx(60 / 1.45)] * 5  # of requests and engines two each, and of jobs: MAREY_QUEUE_MS


async def killed_under_load(served: Served, clip: bytes, title: str) -> tuple[list[Asked], float]:
    """What became of all requests, and when one of the two replicas was killed among them; another has come in its place."""
    load, before = Load(served, clip), replicas(served, title)
    assert len(before) == 2
    async with load.running(clients=CLIENTS):
        await load.until(lambda: load.answered >= 20)
        killed_at = time.monotonic()
        kill(before[0])
        await load.until(lambda: sum(each.sent > killed_at for each in load.asked) >= 40)
        await load.until(lambda: len(set(replicas(served, title)) - set(before)) == 1)
    return load.asked, killed_at


async def test_no_request_is_lost_with_an_engine(replicated: Served, clip: bytes) -> None:
    asked, killed_at = await killed_under_load(replicated, clip, ENGINE)
    assert {each.status for each in asked} == {200}
    assert [each for each in asked if each.sent < killed_at < each.ended]


async def test_with_an_ingress_replica_only_what_it_held_is_lost(replicated: Served, clip: bytes) -> None:
    asked, killed_at = await killed_under_load(replicated, clip, INGRESS)
    lost = [each for each in asked if each.status != 200]
    assert all(each.sent < killed_at for each in lost), lost
    assert len(lost) < CLIENTS  # the other replica held some of them


async def test_clients_that_hang_up_are_no_fault_of_the_service(replicated: Served, clip: bytes) -> None:
    sample = 'marey_requests_total{code="client_gone",route="/classify/video",status="499"}'
    before = replicated.counted(sample)
    host, port = replicated.url.removeprefix("http://").split(":")
    head = (
        b"POST /classify/video HTTP/1.1\r\nHost: marey\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + clip + b"\r\n--b--\r\n"
    for sent in [body[:100]] * 10 + [body] * 10:  # in the middle of the body, and while they wait
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(head % len(body) + sent)
            while not replicated.reads("marey_requests_active") and sent is not body:
                pass
    assert replicated.becomes("marey_requests_active", 0)
    assert replicated.counted(sample) - before >= 5  # of others Ray had not begun
    assert 'status="500"' not in replicated.client.get("/metrics").text


async def test_what_was_accepted_is_answered_and_the_rest_refused_before_the_service_ends(
    color_bundle: Bundle, clip: bytes
) -> None:
    with serving(str(color_bundle.path), "--ray", "--ingress", "1", "--engines", "1") as running:
        load = Load(running, clip)
        family = psutil.Process(running.process.pid).children(recursive=True)
        async with load.running(clients=CLIENTS):
            await load.until(lambda: load.answered >= 2 * CLIENTS)
            told_at = time.monotonic()
            running.process.terminate()
            await load.until(lambda: any(each.status == 503 for each in load.asked))
            assert running.client.get("/health/ready").json()["code"] == "draining"
        assert all(each.status == 200 for each in load.asked if each.sent < told_at)
        assert {each.status for each in load.asked} == {200, 503}
    _, left = psutil.wait_procs(family, timeout=20)
    assert not left
