"""What a service is measured against: loops in one process that answer the same files with nothing around them."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.engine.base import Engine
from service.engine.golden import probabilities
from service.errors import MareyError
from service.media.frames import Decoded
from service.media.limits import Limits
from service.media.preprocess import fit
from service.media.sample import uniform


class BareImages:
    """decode → preprocess → encoder → head (or clip network) by the service's own functions and engine: threads decode a whole batch, then the
    engine has all cores for it. Without HTTP, queues and processes this is what the cores can do.
    """

    def __init__(self, bundle: Bundle, engine: Engine, files: Sequence[bytes], *, threads: int) -> None:
        self.name = "a bare loop: decode, preprocess, engine"
        self._spec, self._engine = bundle.manifest.input, engine
        self._length = bundle.manifest.network.static_frames or 1
        self._files = itertools.cycle(files)
        self._threads = threads

    def run(self, seconds: float) -> float:
        """Images a second over `seconds`."""
        import cv2  # noqa: PLC0415

        from service.media.image import decode_image  # noqa: PLC0415

        before = cv2.getNumThreads()
        cv2.setNumThreads(1)  # as in the service's decoders
        limits, size = Limits(), self._engine.info.max_batch

        def decode(data: bytes) -> Decoded:
            return decode_image(data, spec=self._spec, limits=limits)

        try:
            with ThreadPoolExecutor(self._threads) as pool:
                began, done = time.perf_counter(), 0
                while time.perf_counter() - began < seconds:
                    decoded = pool.map(decode, itertools.islice(self._files, size))
                    clips = [np.repeat(each.clip.frames, self._length, axis=0) for each in decoded]
                    probabilities(self._engine, np.stack(clips))
                    done += size
                return done / (time.perf_counter() - began)
        finally:
            cv2.setNumThreads(before)


class DecodeEverything:
    """How videos are usually classified: OpenCV reads every frame into memory, T of them are taken, float onnxruntime runs."""

    def __init__(self, bundle: Bundle, engine: Engine, files: Sequence[bytes]) -> None:
        self.name = "a baseline: OpenCV decodes everything, float onnxruntime"
        self._manifest, self._engine = bundle.manifest, engine
        self._folder = tempfile.TemporaryDirectory()
        self._paths = []
        for number, data in enumerate(files):
            path = Path(self._folder.name) / str(number)
            path.write_bytes(data)
            self._paths.append(path)
        self._turns = itertools.cycle(self._paths)

    def run(self, seconds: float) -> float:
        """Clips a second over `seconds`."""
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            self.classify(next(self._turns))
            done += 1
        return done / (time.perf_counter() - began)

    def classify(self, path: Path) -> NDArray[np.float32]:
        """Probabilities `[1, K]`."""
        import cv2  # noqa: PLC0415

        capture = cv2.VideoCapture(str(path))
        frames = []
        while (read := capture.read())[0]:
            frames.append(read[1])
        capture.release()
        if not frames:
            raise MareyError(f"OpenCV reads no frame of clip {path.name}; measure with other videos")
        sampling, spec = self._manifest.sampling, self._manifest.input
        chosen = uniform(len(frames), sampling.frames, short_clip=sampling.short_clip)
        clip = np.stack([fit(frames[index], spec=spec, order="bgr") for index in chosen])
        return probabilities(self._engine, clip[None])

    def close(self) -> None:
        self._folder.cleanup()
