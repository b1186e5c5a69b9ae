"""What a stream shows is what a window of a file shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.api.stream.client import heard, send, streaming
from tests.api.stream.windows import frames_of, same_as_windows
from tests.clip_bundle import make_clip_bundle

Make = Callable[..., bytes]


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
    before = served.counted(name)
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
    assert served.counted(name) - before == 12  # and none for the 48 frames between the points


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
