"""What a service is asked in its life: photos, videos, broken files, more than it may do, jobs, and tensors by the thousand."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import httpx
import numpy as np

from tests.api.conftest import picture
from tests.conftest import Served

CLIPS = 64


def video(folder: Path) -> bytes:
    """A second of red."""
    file = folder / "red.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(10):
        writer.write(np.full((48, 64, 3), (20, 20, 230), np.uint8))
    writer.release()
    return file.read_bytes()


class Traffic:
    """`key`: of whoever asks; `hasty`: the key of one who asks more often than it may; `limit`: MAREY_MAX_REQUESTS."""

    def __init__(self, served: Served, folder: Path, *, key: str, hasty: str, limit: int) -> None:
        self._client = served.client
        self._url = httpx.URL(served.url)
        self._headers, self._hasty = {"authorization": f"Bearer {key}"}, {"authorization": f"Bearer {hasty}"}
        self._limit = limit
        self._video = video(folder)
        clips = np.full((CLIPS, 1, 16, 16, 3), 90, np.uint8)
        said = {"name": "clips", "datatype": "UINT8", "shape": clips.shape, "data": clips.ravel().tolist()}
        self._clips = json.dumps({"inputs": [said]})

    def round(self) -> None:
        """Some of everything."""
        for color in ("red", "green", "blue"):
            self._file("/classify/image", picture(color), 200)
        self._file("/classify/video", self._video, 200)
        self._file("/classify/image", b"no picture", 415)
        self._file("/classify/video", self._video[: len(self._video) // 2], 422)
        self._file("/classify/image", picture("red"), 504, timeout_ms=1)
        self._file("/jobs", self._video, 202)
        while self._client.get("/models", headers=self._hasty).status_code != 429:
            pass
        with self._full():
            self._file("/classify/image", picture("red"), 429)

    def clips(self) -> None:
        """Answers by the dozen."""
        answer = self._client.post("/v2/models/bright/infer", content=self._clips, headers=self._headers)
        assert answer.status_code == 200, answer.text

    def _file(self, path: str, content: bytes, status: int, **query: object) -> None:
        answer = self._client.post(path, params=query, files={"file": content}, headers=self._headers)
        assert answer.status_code == status, answer.text

    @contextmanager
    def _full(self) -> Iterator[None]:
        """As many requests in progress as there may be, whose files do not come."""
        held = []
        for _ in range(self._limit):
            connection = http.client.HTTPConnection(self._url.host, self._url.port, timeout=20)
            connection.putrequest("POST", "/classify/image")
            for name, value in {
                **self._headers,
                "content-type": "multipart/form-data; boundary=b",
                "content-length": "1000",
            }.items():
                connection.putheader(name, value)
            connection.endheaders(b"--b\r\n")
            held.append(connection)
        while self._active() < self._limit:
            pass
        try:
            yield
        finally:
            for connection in held:
                connection.close()
            while self._active():
                pass

    def _active(self) -> float:
        text = self._client.get("/metrics", headers=self._headers).text
        return float(text.partition("\nmarey_requests_active ")[2].partition("\n")[0])
