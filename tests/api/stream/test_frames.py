"""Frames that come too fast, broken, too large, out of order, or after the end: nothing piles up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from fastapi import WebSocket, WebSocketDisconnect

from service.api.inflow import Inflow
from service.bundle.manifest import Input
from service.errors import RequestError
from tests.api.stream.client import end_of, heard, send, streaming

Make = Callable[..., bytes]


def test_when_frames_come_too_fast_the_oldest_are_dropped_and_counted(served, make_picture: Make) -> None:
    image, sent = make_picture("red", height=900, width=1100, suffix=".png"), 300
    before = served.counted("marey_stream_frames_dropped_total")
    with streaming(served, window_s=1, frames=4) as stream:
        for number in range(sent):
            send(stream, image, number / 4, 0.25)
        answered, last = 0, {}
        while last.get("time_s") != (sent - 1) / 4:
            last = heard(stream)
            answered += 1
    assert last["dropped"] > 0
    assert answered + last["dropped"] == sent
    assert served.counted("marey_stream_frames_dropped_total") - before == last["dropped"]


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


def test_pixels_and_bytes_are_bounded_as_of_images(served) -> None:
    large = cv2.imencode(".png", np.zeros((1001, 1000, 3), np.uint8))[1].tobytes()
    with streaming(served) as stream:
        send(stream, large, 0, 1)
        assert heard(stream)["problem"]["code"] == "too_many_pixels"
