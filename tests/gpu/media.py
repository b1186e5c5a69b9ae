"""Pictures and videos of no one's, the same for the same seed, encoded as clients send them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.synthetic import synthetic_clips
from service.bundle.store import Bundle


def frames_for(bundle: Bundle, count: int, *, seed: int) -> NDArray[np.uint8]:
    """`[count, H, W, C]`: as many different pictures, of the kind that the golden clips are."""
    spec = bundle.manifest.input
    return synthetic_clips(
        count=count, frames=1, height=spec.height, width=spec.width, channels=spec.channels, seed=seed
    )[:, 0]


def png(frame: NDArray[np.uint8]) -> bytes:
    """Lossless: what the service decodes are the very pixels."""
    done, data = cv2.imencode(".png", frame[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return bytes(data)


def video(folder: Path, *, frames: int, height: int, width: int, seed: int) -> bytes:
    """An AVI of JPEGs, which every OpenCV writes and reads, at 25 frames a second."""
    file = folder / f"{seed}-{frames}x{height}x{width}.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (width, height))
    assert writer.isOpened()
    (clip,) = synthetic_clips(count=1, frames=min(frames, 32), height=height, width=width, channels=3, seed=seed)
    for number in range(frames):
        writer.write(np.ascontiguousarray(clip[number % len(clip)][..., ::-1]))
    writer.release()
    return file.read_bytes()
