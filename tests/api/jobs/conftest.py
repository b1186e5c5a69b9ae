"""A real server that takes jobs, videos for it, and what it answers of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import cv2
import httpx
import numpy as np
import pytest

from service.bundle.store import Bundle
from tests.api.conftest import COLORS
from tests.conftest import Served

Serve = Callable[..., Any]
Answer = dict[str, Any]

# A window begins at every frame of a long video: thousands of them, so that there is time to interrupt.
FINE = {"window_s": 0.5, "stride_s": 0.1, "frames": 5}


def _scope(fixture_name: str, config: pytest.Config) -> Literal["session", "module"]:
    """Ray takes half a minute to start."""
    return "session" if config.getoption("--ray") else "module"


@pytest.fixture(scope=_scope)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope=_scope)
def running(serve: Serve, color_bundle: Bundle, folder: Path, on_ray: tuple[str, ...]) -> Iterator[Served]:
    with serve(str(color_bundle.path), *on_ray, MAREY_JOBS=str(folder), MAREY_MAX_JOB_BYTES=str(2**25)) as served:
        yield served


@pytest.fixture(scope="session")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An hour at 10 frames a second, another color every 7 s; so long that no job on it ends before it is interrupted."""
    file = tmp_path_factory.mktemp("long") / "long.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    pictures = [np.full((32, 32, 3), color[::-1], np.uint8) for color in COLORS.values()]
    for frame in range(36_000):
        writer.write(pictures[frame // 70 % 3])
    writer.release()
    return file.read_bytes()


def post(served: Served, video: bytes, **query: object) -> str:
    response = served.post("/jobs", video, **query)
    assert response.status_code == 202, response.text
    return response.headers["location"]


def ended(served: Served, job: str) -> Answer:
    while (answer := served.client.get(job).json())["state"] in ("queued", "running"):
        pass
    return answer


def result(served: Served, job: str) -> Answer:
    assert ended(served, job)["state"] == "done", served.client.get(job).text
    return served.client.get(f"{job}/result").json()


def refused(response: httpx.Response, status: int, code: str, saying: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert saying in response.json()["detail"]
