"""A real server under files and clients that mean no good: only their own requests fail, and nothing of them stays."""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.e2e import mutate

MIB = 2**20
FORM = b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
END = b"\r\n--B--\r\n"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spool")


@pytest.fixture(scope="module")
def hosted(serve, color_bundle, spool: Path) -> Iterator[object]:
    variables = {
        "MAREY_SPOOL": str(spool),
        "MAREY_MAX_UPLOAD_BYTES": str(8 * MIB),
        "MAREY_MAX_SPOOL_BYTES": str(10 * MIB),
        "MAREY_DECODE_WORKERS": "2",
        "MAREY_QUEUE_MS": "60000",
        "MAREY_LOG_LEVEL": "warning",
    }
    with serve(str(color_bundle.path), **variables) as running:
        yield running
    assert list(spool.iterdir()) == []


def spooled(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def until(condition: Callable[[], bool]) -> None:
    """Nothing tells those outside when the server has noticed."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def noise(side: int) -> bytes:
    """A picture that does not compress: 3 bytes for each pixel."""
    pixels = np.random.default_rng(side).integers(0, 128, (side, side, 3), dtype=np.uint8)
    pixels[..., 0] |= 128
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def connect(running, path: str, *headers: str) -> socket.socket:
    """A connection with the head of an upload already sent."""
    address = urlsplit(running.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    lines = (f"POST {path} HTTP/1.1", "Host: marey", "Content-Type: multipart/form-data; boundary=B", *headers, "", "")
    connection.sendall("\r\n".join(lines).encode())
    return connection


def answer_of(connection: socket.socket) -> tuple[int, dict[str, object], http.client.HTTPMessage]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    body = json.loads(response.read())
    return response.status, body, response.headers


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


def test_a_large_upload_goes_by_way_of_the_disk_and_is_seen_alike(hosted, spool: Path) -> None:
    content = noise(1000)
    assert len(content) > 2 * MIB
    body = hosted.post("/classify/image", content).json()
    assert body["image"] == {"width": 1000, "height": 1000, "format": "PNG", "orientation": 1}
    assert body["predictions"][0]["label"] == "red"
    until(lambda: not spooled(spool))


@pytest.mark.data
def test_a_large_video_goes_by_way_of_the_disk_too(hosted, spool: Path, data: Path) -> None:
    content = (data / "hostile_videos" / "made" / "h264.mp4").read_bytes()
    content += (2 * MIB + 8).to_bytes(4, "big") + b"free" + bytes(2 * MIB)
    assert hosted.post("/classify/video", content).json()["video"]["frames_decoded"] == 108
    until(lambda: not spooled(spool))


def test_an_upload_in_chunks_is_taken_and_past_the_limit_refused_while_it_comes(hosted, spool: Path) -> None:
    content = noise(700)
    with connect(hosted, "/classify/image", "Transfer-Encoding: chunked") as connection:
        connection.sendall(chunked(FORM, content[:9], content[9:], END))
        assert answer_of(connection)[0] == 200
    with connect(hosted, "/classify/image", "Transfer-Encoding: chunked") as connection:
        connection.sendall(chunked(FORM, *[bytes(65_536)] * 160, END))
        status, body, _ = answer_of(connection)
    assert (status, body["code"]) == (413, "file_too_large")
    until(lambda: not spooled(spool))


def test_a_client_that_hangs_up_in_the_middle_leaves_no_file(hosted, spool: Path) -> None:
    for _ in range(3):
        with connect(hosted, "/classify/image", f"Content-Length: {7 * MIB}") as connection:
            connection.sendall(FORM + bytes(2 * MIB))
            until(lambda: spooled(spool) == 1)
        until(lambda: not spooled(spool))
    assert hosted.post("/classify/image", noise(16)).status_code == 200


def test_a_body_that_dawdles_ends_at_the_deadline_and_leaves_no_file(hosted, spool: Path) -> None:
    with connect(hosted, "/classify/image?timeout_ms=700", f"Content-Length: {7 * MIB}") as connection:
        connection.sendall(FORM + bytes(2 * MIB))
        until(lambda: spooled(spool) == 1)
        status, body, _ = answer_of(connection)
        assert (status, body["code"]) == (504, "deadline_exceeded")
        until(lambda: not spooled(spool))


def test_a_full_spool_is_507_with_a_time_to_retry_and_small_uploads_go_on(hosted, spool: Path) -> None:
    with connect(hosted, "/classify/image", f"Content-Length: {7 * MIB}") as first:
        first.sendall(FORM + bytes(5 * MIB))
        until(lambda: spooled(spool) == 1)
        assert 0 < hosted.reads("marey_spool_bytes") < hosted.reads("marey_spool_limit_bytes") == 10 * MIB
        refused = hosted.post("/classify/image", bytes(7 * MIB))
        assert (refused.status_code, refused.json()["code"]) == (507, "spool_full"), refused.text
        assert int(refused.headers["Retry-After"]) >= 1
        # Without a length it shows only on the way.
        with connect(hosted, "/classify/image", "Transfer-Encoding: chunked") as second:
            second.sendall(chunked(FORM, *[bytes(65_536)] * 110, END))
            assert answer_of(second)[0] == 507
        assert hosted.post("/classify/image", noise(16)).status_code == 200
    until(lambda: not spooled(spool))
    assert hosted.post("/classify/image", noise(1000)).status_code == 200


@pytest.mark.parametrize("stated", [len(FORM) + 50, 2 * MIB], ids=["too short", "too long"])
def test_a_length_that_lies_costs_its_own_request_alone(hosted, spool: Path, stated: int) -> None:
    with connect(hosted, "/classify/image", f"Content-Length: {stated}") as connection:
        connection.sendall(FORM + noise(64) + END)
        connection.shutdown(socket.SHUT_WR)
        # What follows a length that is too short is no request; of one that is too long, the client is gone.
        assert connection.recv(65_536)[9:12] in {b"400", b"499", b""}
    assert hosted.post("/classify/image", noise(16)).status_code == 200
    until(lambda: not spooled(spool))


def test_damaged_uploads_of_every_kind_draw_no_5xx_and_no_memory(hosted, spool: Path, request) -> None:
    """600 of them; `python -m tests.e2e.mutate --count 3000` is the whole of it."""
    data = request.getfixturevalue("data") if "MAREY_DATA" in os.environ else None
    default = Path(__file__).parents[3] / "shared" / "data"
    files = mutate.seeds(data or (default if default.is_dir() else None))
    wanted = mutate.uploads(files, count=600, seed=random.Random(6).randrange(10**6))
    told = mutate.post_all(hosted.url, wanted, connections=4, pid=hosted.process.pid)
    assert told.faults == []
    assert sum(told.statuses.values()) == 600
    # Neither all refused at the door, nor all taken: the damage reaches the decoders.
    assert told.codes["ok"] > 60
    assert told.codes["decode_failed"] > 60
    assert told.grown_bytes < 100 * MIB
    assert not spooled(spool)
    assert hosted.post("/classify/image", noise(16)).status_code == 200


def test_kill_minus_nine_of_decoders_under_load_costs_only_what_ran_on_them(hosted) -> None:
    """What a killed decoder had in its hands fails with 422; everybody else is answered."""
    content, answers, stop = noise(250), Counter[tuple[int, str]](), threading.Event()
    body = FORM + content + END
    lock = threading.Lock()

    def ask() -> None:
        connection = http.client.HTTPConnection(urlsplit(hosted.url).netloc, timeout=60)
        while not stop.is_set():
            connection.request("POST", "/classify/image", body, {"Content-Type": "multipart/form-data; boundary=B"})
            response = connection.getresponse()
            told = json.loads(response.read())
            with lock:
                answers[response.status, told.get("code", "ok")] += 1
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    killed = 0
    try:
        for _ in range(4):
            before = answers.total()
            until(lambda before=before: answers.total() > before + 30)
            workers = psutil.Process(hosted.process.pid).children()
            victim = max(workers, key=lambda worker: worker.create_time() if killed % 2 else -worker.create_time())
            victim.send_signal(signal.SIGKILL)
            killed += 1
        before = answers.total()
        until(lambda: answers.total() > before + 60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    failed = answers[422, "decode_failed"]
    assert set(answers) <= {(200, "ok"), (422, "decode_failed")}, answers
    assert 1 <= failed <= killed, answers
    assert answers[200, "ok"] > 150
    assert hosted.client.get("/health/ready").status_code == 200


def test_what_a_killed_server_left_in_the_spool_is_gone_after_the_next_start(
    serve, color_bundle, tmp_path: Path
) -> None:
    with (
        serve(str(color_bundle.path), exit_code=-signal.SIGKILL, MAREY_SPOOL=str(tmp_path)) as running,
        connect(running, "/classify/image", f"Content-Length: {7 * MIB}") as connection,
    ):
        connection.sendall(FORM + bytes(2 * MIB))
        until(lambda: spooled(tmp_path) == 1)
        running.process.kill()
        running.process.wait()
    assert spooled(tmp_path) == 1
    with serve(str(color_bundle.path), MAREY_SPOOL=str(tmp_path)):
        assert spooled(tmp_path) == 0
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
