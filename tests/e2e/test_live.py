"""Live as a user has it: a shipped model on a stream, cameras that break off, a client that is told to stop."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from tests.api.stream.client import heard, send, streaming
from tests.api.stream.windows import same_as_windows
from tests.e2e.cameras import mjpeg, rtsp

BUNDLES = Path(__file__).parents[2] / "models" / "bundles"
RED, BLUE = (230, 20, 20), (20, 20, 230)


@contextmanager
def watching(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`marey classify` that was not told to stop yet."""
    command = [sys.executable, "-m", "service", "classify", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def stopped(process: subprocess.Popen[str], how: signal.Signals = signal.SIGINT) -> str:
    """Ask it to stop; what it had said on stderr. Its camera goes with it."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert psutil.wait_procs(children, timeout=10)[1] == []
    return said


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> bytes:
    """Three seconds that move, in which neighbouring frames differ and no two windows are alike."""
    path, random = tmp_path_factory.mktemp("noise") / "made.mp4", np.random.default_rng(3)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (320, 240))
    assert writer.isOpened()
    ground = random.integers(0, 256, (60, 80, 3), np.uint8)
    for number in range(75):
        picture = cv2.resize(np.roll(ground, number, axis=1), (320, 240))
        cv2.circle(picture, (3 * number, 120), 20 + number // 3, (255, 255 - 2 * number, 40), -1)
        writer.write(picture)
    writer.release()
    return path.read_bytes()


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_stream_of_the_shipped_model_says_what_windows_of_the_file_say(serve, noise: bytes, precision: str) -> None:
    with serve(str(BUNDLES / "fight"), "--precision", precision) as running:
        assert same_as_windows(running, noise, model="fight", window_s=2, frames=16) > 7


def test_a_client_that_does_not_read_costs_no_memory(serve) -> None:
    image = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    with serve(str(BUNDLES / "imagenet")) as running:
        server, head = psutil.Process(running.process.pid), 'marey_stage_seconds_count{model="imagenet",stage="head"}'
        with streaming(running, frames=1, window_s=0.04, top_k=0) as deaf:
            before, sent, answered, last = server.memory_info().rss, 0, -1.0, 0.0
            while answered != last:  # until nothing more is answered, though frames come
                last = answered
                for _ in range(40):
                    send(deaf, image, sent * 0.04, 0.04)
                    sent += 1
                answered = running.counted(head)
            assert server.memory_info().rss - before < 48 * 2**20
            final: dict[str, Any] = {}
            while final.get("time_s") != (sent - 1) * 0.04:
                final = heard(deaf)
            assert final["dropped"] >= 40


def test_a_camera_is_watched_until_ctrl_c_and_its_password_is_never_shown(served) -> None:
    def show(number: int) -> tuple[int, int, int]:
        return RED if number < 50 else BLUE

    with mjpeg(show) as camera, watching(camera, "--url", served.url) as process:
        seen = [line(process).split() for _ in range(2)]
        said = stopped(process)
    assert [words[-1] for words in seen] == ["red", "blue"]
    assert re.fullmatch(r"\d\d:\d\d:\d\d", seen[0][0])
    assert seen[0][1].endswith("%")
    assert "watches http://127.0.0.1" in said
    assert re.search(r"^\d+ answers", said, re.MULTILINE)
    assert "sesame" not in said + str(seen)


def test_rtsp_is_watched_with_a_service_made_for_the_occasion(color_bundle) -> None:
    with rtsp(lambda _: BLUE) as camera, watching(camera, "--bundle", str(color_bundle.path), "--json") as process:
        answers = [json.loads(line(process)) for _ in range(4)]
        said = stopped(process, signal.SIGTERM)
    assert [each["predictions"][0]["label"] for each in answers] == ["blue"] * 4
    assert answers[-1]["filled"] == 1
    assert "watches rtsp://127.0.0.1" in said
    assert "sesame" not in said


def test_a_camera_that_breaks_off_is_opened_again(served) -> None:
    calls = iter((RED, BLUE))
    colors: dict[int, tuple[int, int, int]] = {}

    def show(number: int) -> tuple[int, int, int] | None:
        if number == 0:
            colors[0] = next(calls, BLUE)
        return colors[0] if number < 45 or colors[0] == BLUE else None

    with mjpeg(show) as camera, watching(camera, "--url", served.url) as process:
        assert [line(process).split()[-1] for _ in range(2)] == ["red", "blue"]
        said = stopped(process)
    assert "broke off; again in 0.5 s" in said


def test_a_service_that_is_restarted_is_asked_again(serve, color_bundle) -> None:
    with ExitStack() as both:
        camera = both.enter_context(mjpeg(lambda _: RED))
        with serve(str(color_bundle.path)) as running:
            watcher = both.enter_context(watching(camera, "--url", running.url, "--json"))
            line(watcher)
        with serve(str(color_bundle.path), "--port", running.url.rpartition(":")[2]) as running:
            while running.counted("marey_streams_active") < 1:
                assert watcher.poll() is None
            said = stopped(watcher)
    assert "1012" in said
    assert "again in" in said


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (("http://user:secret@127.0.0.1:9/video",), "http://127.0.0.1:9/video cannot be opened"),
        (("webcam:77",), "webcam:77 cannot be opened"),
        (("-",), "has 0 bytes"),
        (("webcam", "photo.jpg"), "alone"),
        (("webcam", "--model", "nobody"), "nobody"),
    ],
)
def test_what_cannot_be_watched_is_said_in_one_sentence(served, arguments: tuple[str, ...], saying: str) -> None:
    with watching(*arguments, "--url", served.url) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode in (1, 2)
    assert saying in said
    assert "secret" not in said
    assert "Traceback" not in said


def test_a_stream_on_stdin_is_classified_to_its_end(served, tmp_path) -> None:
    path = tmp_path / "made.ts"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 20, (64, 48))
    for color in (RED, BLUE):
        for _ in range(60):
            writer.write(np.full((48, 64, 3), color[::-1], np.uint8))
    writer.release()
    command = [sys.executable, "-m", "service", "classify", "-", "--url", served.url]
    with path.open("rb") as file, subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        for stdin in (file, cat.stdout):
            done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            assert [words.split()[-1] for words in done.stdout.splitlines()] == ["red", "blue"]
            assert "12 answers" in done.stderr


def test_whoever_has_read_enough_ends_it_quietly(served, tmp_path) -> None:
    path = tmp_path / "made.ts"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 20, (64, 48))
    for number in range(120):
        writer.write(np.full((48, 64, 3), number, np.uint8))
    writer.release()
    video = path.read_bytes()
    command = [sys.executable, "-m", "service", "classify", "-", "--url", served.url, "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(video[: len(video) // 2])
        process.stdin.flush()
        assert process.stdout.readline()
        process.stdout.close()  # as head does
        with suppress(BrokenPipeError):
            process.stdin.write(video[len(video) // 2 :])
            process.stdin.close()
        said = process.stderr.read().decode()
        assert process.wait(60) == 0, said
    assert len(said.splitlines()) == 1, said  # who watches what
    assert "no service" not in said
    assert "rror" not in said
