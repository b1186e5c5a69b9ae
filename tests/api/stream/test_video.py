"""Encoded video in pieces, from a browser or a recorder, through a decoder of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from tests.api.stream.client import end_of, heard, send, shares, streaming

Make = Callable[..., bytes]
COLORS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> dict[str, bytes]:
    """Three seconds of red, green and blue with a camera's noise, as its recorder would send them."""
    folder, made, random = tmp_path_factory.mktemp("encoded"), {}, np.random.default_rng(5)
    for form, suffix, codec in (("webm", ".webm", "VP80"), ("mpegts", ".ts", "mp4v")):
        file = folder / f"made{suffix}"
        writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 20, (64, 48))
        assert writer.isOpened(), codec
        for color in COLORS.values():
            for _ in range(20):
                noise = random.integers(-20, 20, (48, 64, 3))
                writer.write((np.array(color[::-1]) + noise).clip(0, 255).astype(np.uint8))
        writer.release()
        made[form] = file.read_bytes()
    return made


@pytest.mark.parametrize(("form", "window_s", "frames"), [("webm", 1, 4), ("mpegts", 1, 4), ("mpegts", 0.4, 8)])
def test_encoded_video_in_pieces_is_answered_as_the_files_windows_are(served, encoded, form, window_s, frames) -> None:
    video, wishes = encoded[form], {"model": "color", "window_s": window_s, "frames": frames, "top_k": 0}
    file = served.post("/classify/video", video, stride_s=window_s / frames, merge=False, **wishes).json()
    with streaming(served, format=form, drop="false", **wishes) as stream:
        for start in range(0, len(video), 1000):
            stream.send(video[start : start + 1000])
        stream.send('{"end": true}')
        answers = []
        code, _ = end_of(stream, heard_before=answers)
    assert code == 1000
    assert [each["type"] for each in answers] == ["prediction"] * round(3 / window_s * frames)
    assert [each["time_s"] for each in answers] == [frame["time_s"] for frame in file["sampling"]["frames"]]
    full = [each for each in answers if each["filled"] == 1]
    assert [each["window"]["end_s"] for each in full] == [window["end_s"] for window in file["segments"]]
    for mine, window in zip(full, file["segments"], strict=True):
        assert shares(mine) == pytest.approx(shares(window), abs=1e-5)
    assert answers[-1]["dropped"] == 0


def decoders(running: Any) -> set[int]:
    return {child.pid for child in psutil.Process(running.process.pid).children(recursive=True)}


def test_encoded_video_is_answered_while_it_comes_and_its_decoder_goes_with_it(served, encoded) -> None:
    video, before = encoded["mpegts"], decoders(served)
    with streaming(served, format="mpegts", window_s=1, frames=4) as stream:
        for start in range(0, len(video), 188):
            stream.send(video[start : start + 188])
        first = heard(stream)  # and the end has not been said
        assert first["predictions"][0]["label"] == "red"
        (own,) = decoders(served) - before
    _, alive = psutil.wait_procs([psutil.Process(own)] if psutil.pid_exists(own) else [], timeout=10)
    assert alive == []


def test_what_a_browser_records_is_answered_before_five_seconds_of_it_are_there(served, encoded) -> None:
    video = encoded["webm"]
    # Browsers leave out how long a frame is shown (DefaultDuration): made into an element without meaning.
    at = video.index(b"\x23\xe3\x83")
    size = video[at + 3] & 0x7F
    video = video[:at] + bytes((0xEC, 0x80 | (2 + size))) + bytes(2 + size) + video[at + 4 + size :]
    assert len(video) == len(encoded["webm"])
    with streaming(served, format="webm", window_s=1, frames=4) as stream:
        stream.send(video[: len(video) // 2])
        assert heard(stream)["predictions"][0]["label"] == "red"


def test_a_decoder_that_dies_ends_its_stream_alone(served, encoded, make_picture: Make) -> None:
    before = decoders(served)
    with streaming(served, format="webm") as stream, streaming(served, window_s=1, frames=4) as other:
        stream.send(encoded["webm"][:1000])
        while not (mine := decoders(served) - before):
            pass
        psutil.Process(mine.pop()).kill()
        code, last = end_of(stream)
        assert (code, last["problem"]["code"]) == (1007, "decode_failed")
        send(other, make_picture("blue"), 0, 1)
        assert heard(other)["predictions"][0]["label"] == "blue"


@pytest.mark.parametrize(
    ("form", "content", "code", "problem"),
    [
        ("webm", b"no video, whatever it says " * 100, 1003, "unsupported_media"),
        ("mpegts", "webm", 1003, "unsupported_media"),
        ("webm", b"\x1a\x45\xdf\xa3" + b"\x01" * 3000, 1007, "decode_failed"),
        ("webm", b"#EXTM3U\nhttp://127.0.0.1/\n" * 100, 1003, "unsupported_media"),
    ],
)
def test_what_is_no_such_stream_is_refused(served, encoded, form: str, content: bytes | str, code, problem) -> None:
    with streaming(served, format=form) as stream:
        stream.send(content if isinstance(content, bytes) else encoded[content])
        stream.send('{"end": true}')
        closed, last = end_of(stream)
    assert (closed, last["problem"]["code"]) == (code, problem)
