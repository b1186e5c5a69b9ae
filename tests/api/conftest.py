"""Small media made on the spot: their content is known, so the right answer is known; and a service to ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.api.app import create_app
from service.bundle.store import Bundle
from service.settings import Settings
from tests.api.house import House

# In RGB; a mix-up with BGR turns red into blue.
COLORS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}


def picture(color: str, *, height: int = 48, width: int = 64, suffix: str = ".jpg") -> bytes:
    pixels = np.full((height, width, 3), COLORS[color], np.uint8)
    return cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.fixture(scope="session")
def make_video(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """`make_video("red", "blue", frames=10)`: 10 frames of red, then 10 of blue, at 10 frames a second, MPEG-4."""
    folder = tmp_path_factory.mktemp("videos")

    def make(*colors: str, frames: int = 10, fps: float = 10) -> bytes:
        file: Path = folder / "made.mp4"
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), fps, (64, 48))
        assert writer.isOpened()
        for color in colors:
            for _ in range(frames):
                writer.write(np.full((48, 64, 3), COLORS[color][::-1], np.uint8))
        writer.release()
        return file.read_bytes()

    return make


@pytest.fixture(scope="session")
def make_picture() -> Callable[..., bytes]:
    return picture


@pytest.fixture
async def house(color_bundle: Bundle) -> AsyncIterator[House]:
    app = create_app(Settings(bundles=(color_bundle.path,), decode_workers=1, jobs=None))
    async with app.router.lifespan_context(app), asyncio.timeout(60):
        await app.state.marey.loaded.wait()
        yield House(app)
