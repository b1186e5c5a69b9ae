"""Live streams over real WebSockets: what a stream shows is what a window of a file shows, and nothing piles up."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pytest
from fastapi import WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from service.api.inflow import Inflow
from service.bundle.manifest import Input
from service.errors import RequestError
from service.keys import add
from tests.clip_bundle import make_clip_bundle

Make = Callable[..., bytes]
COLORS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}


@contextmanager
def streaming(running: Any, *, headers: dict[str, str] | None = None, **query: object) -> Iterator[ClientConnection]:
    """An open stream, past its first message."""
    url = str(httpx.URL(running.url.replace("http", "ws") + "/classify/stream", params=query))
    with connect(url, additional_headers=headers, close_timeout=5, proxy=None) as stream:
        stream.ready = heard(stream)  # type: ignore[attr-defined]
        assert stream.ready["type"] == "ready"  # type: ignore[attr-defined]
        yield stream


def heard(stream: ClientConnection) -> dict[str, Any]:
    return json.loads(stream.recv(timeout=20))


def send(stream: ClientConnection, image: bytes, time_s: float | None = None, duration_s: float = 0) -> None:
    if time_s is not None:
        stream.send(json.dumps({"time_s": time_s, "duration_s": duration_s}))
    stream.send(image)


def refusal(running: Any, *, headers: dict[str, str] | None = None, **query: object) -> httpx.Response:
    """The HTTP answer in place of a stream."""
    with pytest.raises(InvalidStatus) as caught, streaming(running, headers=headers, **query):
        pass
    answer = caught.value.response
    return httpx.Response(answer.status_code, headers=list(answer.headers.raw_items()), content=bytes(answer.body))


def end_of(stream: ClientConnection, *, heard_before: list[dict[str, Any]] | None = None) -> tuple[int, dict[str, Any]]:
    """The code that it was closed with, and the last message; `heard_before` takes all of them."""
    last: dict[str, Any] = {}
    while True:
        try:
            last = heard(stream)
            (heard_before if heard_before is not None else []).append(last)
        except ConnectionClosed as error:
            return error.rcvd.code if error.rcvd else 1006, last


def frames_of(video: bytes) -> tuple[list[bytes], list[float]]:
    """Every frame as PNG, and when it is shown."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        Path(file.name).write_bytes(video)
        capture, frames, times = cv2.VideoCapture(file.name), [], []
        while (read := capture.read())[0]:
            frames.append(cv2.imencode(".png", read[1])[1].tobytes())
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return frames, times


def count(running: Any, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", running.client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def shares(message: dict[str, Any]) -> dict[str, float]:
    return {each["label"]: each["probability"] for each in message["predictions"]}


def same_as_windows(running: Any, video: bytes, *, model: str, window_s: float, frames: int) -> int:
    """Stream the video's frames with their times, and compare each answer with the file's window; how many were."""
    images, times = frames_of(video)
    spacing = window_s / frames
    wishes = {"model": model, "window_s": window_s, "frames": frames, "top_k": 0}
    answer = running.post("/classify/video", video, stride_s=spacing, merge=False, **wishes)
    assert answer.status_code == 200, answer.text
    windows = {round(each["end_s"] / spacing): each for each in answer.json()["segments"]}
    period, compared = (times[-1] - times[0]) / (len(times) - 1), 0
    due = {round(frame["time_s"], 3) for frame in answer.json()["sampling"]["frames"]}
    with streaming(running, **wishes) as stream:
        for number, (image, time_s) in enumerate(zip(images, times, strict=True)):
            send(stream, image, time_s, period)  # constant here, so that each frame that is due is so at once
            if round(time_s - times[0], 3) not in due:
                continue
            message = heard(stream)
            assert message["type"] == "prediction", message
            assert message["time_s"] == pytest.approx(time_s, abs=1e-6)
            window = windows.get(round((message["window"]["end_s"] - times[0]) / spacing))
            if message["filled"] < 1 or window is None:
                continue
            told = shares({"predictions": window["predictions"]})
            assert shares(message) == pytest.approx(told, abs=1e-5), number
            compared += 1
        assert message["dropped"] == 0
    return compared


@pytest.fixture(scope="module")
def motion(serve, tmp_path_factory) -> Iterator[Any]:
    """A clip network and its INT8, and the same of fixed length."""
    folder = tmp_path_factory.mktemp("motion")
    make_clip_bundle(folder / "motion", int8=4)
    make_clip_bundle(folder / "fixed", frames=4, name="fixed")
    with serve(str(folder)) as running:
        yield running


def test_a_stream_answers_as_the_files_windows_do_for_one_encoder_row_a_frame(served, make_video: Make) -> None:
    video = make_video("red", "green", "blue", frames=20, fps=20)
    name = 'marey_batch_rows_sum{stage="encoder"}'
    assert same_as_windows(served, video, model="color", window_s=1, frames=4) > 7
    before = count(served, name)
    with streaming(served, window_s=1, frames=4) as stream:
        assert (stream.ready["spacing_s"], stream.ready["frames"], stream.ready["stride_s"]) == (0.25, 4, 0.25)
        images, times = frames_of(video)
        answers = []
        for image, time_s in zip(images, times, strict=True):
            send(stream, image, time_s, 0.05)
            if len(answers) < (time_s + 0.05 + 0.125 - 0.001) // 0.25:
                answers.append(heard(stream))
    assert len(images) == 60
    assert len(answers) == 12
    assert count(served, name) - before == 12  # and none for the 48 frames between the points


def test_frames_between_the_points_are_not_even_decoded(served, make_picture: Make) -> None:
    with streaming(served, window_s=4, frames=4) as stream:
        send(stream, make_picture("red"), 0, 1)
        assert heard(stream)["type"] == "prediction"
        for number in range(1, 10):
            send(stream, b"no image at all", number / 10)
        send(stream, make_picture("red"), 1, 1)
        assert heard(stream)["type"] == "prediction"


@pytest.mark.parametrize("model", ["motion", "fixed"])
def test_clip_networks_see_the_same_frames_of_a_stream_as_of_a_file(motion, make_video: Make, model: str) -> None:
    assert motion.client.get("/models/motion").json()["precision"] == "int8"
    assert same_as_windows(motion, make_video("red", "blue", frames=20, fps=10), model=model, window_s=1, frames=4) > 5


def test_a_window_that_is_not_full_yet_says_so(served, make_picture: Make) -> None:
    with streaming(served, window_s=1, frames=4) as stream:
        seen = []
        for number in range(6):
            send(stream, make_picture("red" if number < 3 else "blue"), 10 + number / 4, 0.25)
            seen.append(heard(stream))
    assert [each["filled"] for each in seen] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [each["window"]["frames"] for each in seen] == [1, 2, 3, 4, 4, 4]
    assert seen[0]["window"]["start_s"] == 10
    assert (seen[-1]["window"]["start_s"], seen[-1]["window"]["end_s"]) == (10.5, 11.5)
    assert [each["predictions"][0]["label"] for each in seen] == ["red"] * 4 + [
        seen[4]["predictions"][0]["label"],
        "blue",
    ]
    assert set(seen[0]["timings_ms"]) == {"wait", "decode", "preprocess", "queue", "encode", "head", "total"}
    assert seen[0]["latency_ms"] == seen[0]["timings_ms"]["total"] > 0


def test_frames_without_times_count_from_when_they_come(served, make_picture: Make) -> None:
    with streaming(served, window_s=0.04, frames=1) as stream:
        for color in ("red", "green", "blue"):
            seen = None
            while (
                seen != color
            ):  # what falls between two points is not answered, and an answer may be of the one before
                send(stream, make_picture(color))
                with suppress(TimeoutError):
                    message = json.loads(stream.recv(timeout=0.05))
                    seen = message["predictions"][0]["label"]
        assert 0 < message["time_s"] < 20
        assert message["window"]["frames"] == 1


def test_with_a_stride_every_frame_is_encoded_and_some_are_answered(served, make_picture: Make) -> None:
    with streaming(served, window_s=1, frames=4, stride_s=0.5) as stream:
        assert stream.ready["stride_s"] == 0.5
        seen = []
        for number in range(7):
            send(stream, make_picture("red"), number / 4, 0.25)
            if number % 2 == 0:
                seen.append(heard(stream))
    assert [each["time_s"] for each in seen] == [0, 0.5, 1, 1.5]
    assert [each["window"]["frames"] for each in seen] == [1, 3, 4, 4]


def test_when_frames_come_too_fast_the_oldest_are_dropped_and_counted(served, make_picture: Make) -> None:
    image, sent = make_picture("red", height=900, width=1100, suffix=".png"), 300
    before = count(served, "marey_stream_frames_dropped_total")
    with streaming(served, window_s=1, frames=4) as stream:
        for number in range(sent):
            send(stream, image, number / 4, 0.25)
        answered, last = 0, {}
        while last.get("time_s") != (sent - 1) / 4:
            last = heard(stream)
            answered += 1
    assert last["dropped"] > 0
    assert answered + last["dropped"] == sent
    assert count(served, "marey_stream_frames_dropped_total") - before == last["dropped"]


def test_a_client_that_does_not_read_holds_up_nobody_and_costs_no_memory(served, make_picture: Make) -> None:
    server = psutil.Process(served.process.pid)
    image = make_picture("red", height=300, width=400, suffix=".png")
    with streaming(served, window_s=1, frames=4, top_k=0) as deaf, streaming(served) as other:
        before = server.memory_info().rss
        for number in range(6000):
            send(deaf, image, number / 4, 0.25)
        send(other, image, 0, 1)
        assert heard(other)["type"] == "prediction"
        assert server.memory_info().rss - before < 32 * 2**20


def test_a_broken_frame_does_not_end_a_stream_and_many_do(served, make_picture: Make) -> None:
    with streaming(served, window_s=1, frames=4) as stream:
        for number in range(3):
            send(stream, make_picture("red")[:300], number, 1)
            told = heard(stream)
            assert (told["type"], told["ends"], told["problem"]["code"]) == ("problem", False, "decode_failed")
            assert told["time_s"] == number
        send(stream, make_picture("green"), 3, 1)
        assert heard(stream)["predictions"][0]["label"] == "green"
        for number in range(4, 12):
            send(stream, b"this is no image", number, 1)
            last = heard(stream)
        code, _ = end_of(stream)
    assert (code, last["ends"], last["problem"]["code"]) == (1003, True, "unsupported_media")


def test_at_the_end_the_last_image_is_answered_too(served, make_picture: Make) -> None:
    with streaming(served, window_s=1, frames=4) as stream:
        send(stream, make_picture("red"), 5)  # and nobody knows yet for how long it is shown
        send(stream, make_picture("blue"), 5.25)
        stream.send('{"end": true}')
        answers: list[dict[str, Any]] = []
        code, _ = end_of(stream, heard_before=answers)
    assert code == 1000
    assert [(each["time_s"], each["window"]["end_s"]) for each in answers] == [(5, 5.25), (5.25, 5.5)]


def test_an_image_whose_time_steps_back_is_left_out_and_the_stream_goes_on(served, make_picture: Make) -> None:
    with streaming(served, window_s=1, frames=4) as stream:
        send(stream, make_picture("red"), 1.25, 0.25)
        assert heard(stream)["time_s"] == 1.25
        send(stream, make_picture("green"), 0.5, 0.25)
        told = heard(stream)
        assert (told["type"], told["ends"], told["time_s"]) == ("problem", False, 0.5)
        assert told["problem"]["code"] == "invalid_parameter"
        assert "time_s = 0.5 steps back behind the 1.25" in told["problem"]["detail"]
        send(stream, make_picture("blue"), 1.5, 0.25)
        last = heard(stream)
    assert (last["time_s"], last["window"]["frames"], last["dropped"]) == (1.5, 2, 0)


async def test_images_after_the_end_are_refused_and_those_before_it_are_answered() -> None:
    """What comes, without the answers: they would close the stream in the meantime."""
    coming: list[dict[str, Any]] = [
        {"type": "websocket.connect"},
        *({"type": "websocket.receive", **each} for each in (
            {"text": '{"time_s": 1}'}, {"bytes": b"first"}, {"text": '{"end": true}'},
            {"text": '{"time_s": 2}'}, {"bytes": b"late"}, {"text": '{"end": true}'},
        )),
        {"type": "websocket.disconnect", "code": 1000},
    ]  # fmt: skip
    refused: list[tuple[str, float | None]] = []

    async def receive() -> dict[str, Any]:
        return coming.pop(0)

    async def send(_message: Any) -> None:
        pass

    async def refuse(error: RequestError, time_s: float | None) -> None:
        refused.append((str(error), time_s))

    websocket = WebSocket({"type": "websocket"}, receive, send)
    await websocket.accept()
    spec = Input(height=16, width=16)
    inflow = Inflow(spacing_s=0.25, spec=spec, form="images", decoder=None, hold=False, max_bytes=100)
    async with asyncio.timeout(5):
        with pytest.raises(WebSocketDisconnect):
            await inflow.read(websocket, refuse=refuse)
        due = await inflow.waiting.get()
        assert due is not None
        assert due.frame.data == b"first"
        assert await inflow.waiting.get() is None
    ((said, time_s),) = refused
    assert time_s == 2
    assert 'after {"end": true}' in said


@pytest.mark.parametrize(
    ("messages", "code", "problem", "saying"),
    [
        ([b"\0" * (2**20 + 1)], 1009, "file_too_large", "1048576"),
        (["{}"], 1008, "malformed", "time_s"),
        (['{"time_s": "soon"}'], 1008, "malformed", "time_s"),
        (['{"time_s": NaN}'], 1008, "malformed", "time_s"),
        (['{"time_s": 1}', '{"time_s": 2}'], 1008, "malformed", "two texts in a row"),
        ([b"x", '{"time_s": 1}', b"x"], 1008, "malformed", "some images have times"),
    ],
)
def test_what_cannot_be_understood_ends_the_stream_with_its_reason(served, messages, code, problem, saying) -> None:
    with streaming(served) as stream:
        for message in messages:
            stream.send(message)
        closed, last = end_of(stream)
    assert (closed, last["ends"], last["problem"]["code"]) == (code, True, problem)
    assert saying in last["problem"]["detail"]


@pytest.mark.parametrize(
    ("query", "status", "code", "saying"),
    [
        ({"model": "nobody"}, 404, "unknown_model", "color"),
        ({"frames": 9}, 422, "invalid_parameter", "8"),
        ({"frames": "many"}, 422, "invalid_parameter", "frames"),
        ({"window_s": 0}, 422, "invalid_parameter", "window_s"),
        ({"stride_s": "nan"}, 422, "invalid_parameter", "stride_s"),
    ],
)
def test_a_stream_that_cannot_be_is_refused_before_it_begins(served, query, status, code, saying) -> None:
    answer = refusal(served, **query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert saying in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_page_of_another_site_cannot_open_a_stream(served) -> None:
    answer = refusal(served, headers={"Origin": "https://elsewhere.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    with streaming(served, headers={"Origin": served.url}):
        pass


def test_a_full_house_refuses_with_429_and_a_stream_that_ends_makes_room(serve, color_bundle) -> None:
    with serve(str(color_bundle.path), MAREY_MAX_STREAMS="1") as running:
        with streaming(running):
            answer = refusal(running)
            assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
            assert int(answer.headers["retry-after"]) > 0
            assert count(running, "marey_streams_active") == 1
        while count(running, "marey_streams_active"):
            pass
        with streaming(running) as stream:
            running.process.terminate()
            code, _ = end_of(stream)
            assert code == 1012


def test_keys_open_streams_in_a_header_and_as_browsers_send_them(
    serve, color_bundle, make_picture: Make, tmp_path
) -> None:
    token = add(tmp_path / "keys", "camera")
    with serve(str(color_bundle.path), MAREY_KEYS=str(tmp_path / "keys")) as running:
        assert refusal(running).status_code == 401
        with streaming(running, headers={"Authorization": f"Bearer {token}"}):
            pass
        url = running.url.replace("http", "ws") + "/classify/stream"
        with connect(url, subprotocols=["marey", f"marey.key.{token}"], proxy=None) as stream:  # type: ignore[list-item]
            assert stream.subprotocol == "marey"
            assert heard(stream)["type"] == "ready"
            send(stream, make_picture("red"))
            assert heard(stream)["predictions"][0]["label"] == "red"


def test_pixels_and_bytes_are_bounded_as_of_images(served) -> None:
    large = cv2.imencode(".png", np.zeros((1001, 1000, 3), np.uint8))[1].tobytes()
    with streaming(served) as stream:
        send(stream, large, 0, 1)
        assert heard(stream)["problem"]["code"] == "too_many_pixels"


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
