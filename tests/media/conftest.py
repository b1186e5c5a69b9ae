"""Media made on the spot, where a real file cannot show the point."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from service.bundle.manifest import Input

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@dataclass(frozen=True)
class Hostile:
    """A row of the folder's manifest: `frames` is how many this OpenCV decodes."""

    path: Path
    codec: str
    frames: int
    shape: tuple[int, ...]


@pytest.fixture(scope="session")
def hostile(data: Path) -> dict[str, Hostile]:
    folder = data / "hostile_videos"
    with (folder / "manifest.csv").open() as file:
        return {
            Path(row["path"]).name: Hostile(
                folder / row["path"],
                row["codec"],
                int(row["cv_frames"]),
                tuple(int(side) for side in row["cv_shape"].split("x") if side),
            )
            for row in csv.DictReader(file)
        }


@pytest.fixture(scope="session")
def photo(data: Path) -> bytes:
    return min((data / "imagenet_photos").rglob("*.jpg")).read_bytes()


@pytest.fixture(scope="session")
def spec() -> Input:
    return Input(height=64, width=64)


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encode(array or image, format, **Pillow's options)` → the file's bytes."""

    def encode(picture: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
        image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Path]:
    """`record(frames RGB, suffix, codec, fps)` → a video file of these frames."""

    def record(frames: list[np.ndarray], *, suffix: str = ".avi", codec: str = "MJPG", fps: float = 10.0) -> Path:
        path = tmp_path / f"made{suffix}"
        height, width = frames[0].shape[:2]
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, (width, height))
        assert writer.isOpened(), f"this OpenCV cannot write {codec}"
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
        writer.release()
        return path

    return record


@pytest.fixture(scope="session")
def patches() -> np.ndarray:
    """`[96, 128, 3]`: 6 × 8 coloured squares, all different, so that no turn or flip maps them onto themselves."""
    colors = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.kron(colors, np.ones((16, 16, 1), np.uint8))
