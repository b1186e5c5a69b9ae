"""A video's frames as a stream, and what that answers beside the windows of the file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.api.stream.client import heard, send, shares, streaming


def frames_of(video: bytes) -> tuple[list[bytes], list[float]]:
    """Every frame as PNG, and when it is shown."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        Path(file.name).write_bytes(video)
        capture, frames, times = cv2.VideoCapture(file.name), [], []
        while (read := capture.read())[0]:
            frames.append(cv2.imencode(".png", read[1])[1].tobytes())
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return frames, times


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
