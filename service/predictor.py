"""The pipeline of one model: decode → encode → head → answer. An image is a clip of one frame: there is no second path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.batcher import Batcher, Priority, Rows
from service.bundle.manifest import Manifest, Sampling
from service.bundle.store import Bundle
from service.engine.base import Engine, EngineInfo
from service.errors import InvalidParameter
from service.media.frames import Clip, Decoded, Window, Windows
from service.media.sample import uniform
from service.media.workers import DecodePool

# Of all windows of one video together: their features are copied for the head, 5 KB a frame where there are 1,280.
_MAX_WINDOW_FRAMES = 16_384


@dataclass(frozen=True, slots=True)
class Answer:
    """What the network said of one clip.

    `probabilities` `[K]`: of the clip, or the mean over its windows; `windowed` `[W, K]` belongs to `clip.windows`, and is
    None where none were asked for; `attention` `[T]` sums to 1, and is None where the model has none or windows were cut.
    """

    clip: Clip
    probabilities: NDArray[np.float32]
    windowed: NDArray[np.float32] | None
    attention: NDArray[np.float32] | None
    engine: EngineInfo
    batch_size: int
    timings_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Replica:
    """The bundle on one device: its engine, the thread that it lives on, and its largest |Δp| on the golden clips."""

    engine: Engine
    batcher: Batcher
    golden_difference: float


class Predictor:
    """Joins one opened bundle, its replicas, one a device, and the decoders. A clip stays on the device that it began on."""

    def __init__(self, bundle: Bundle, *, replicas: tuple[Replica, ...], decoders: DecodePool) -> None:
        self.bundle = bundle
        self.replicas = replicas
        self._decoders = decoders

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def info(self) -> EngineInfo:
        """Of the first replica; an answer names the one that it came from."""
        return self.replicas[0].engine.info

    @property
    def golden_difference(self) -> float:
        return max(replica.golden_difference for replica in self.replicas)

    async def image(self, data: bytes, *, deadline: float, priority: Priority = "interactive") -> Answer:
        """Classify an encoded image. `deadline`: monotonic seconds. Raises RequestError, ServiceError or EngineError."""
        decoding = self._decoders.image(data, spec=self.manifest.input)
        return await self._classify(decoding, deadline=deadline, priority=priority)

    async def video(
        self, data: bytes, *, plan: Sampling | Windows, deadline: float, priority: Priority = "interactive"
    ) -> Answer:
        """Classify an encoded video by the frames that `plan` picks; see `plan` for what a client may ask."""
        decoding = self._decoders.video(data, spec=self.manifest.input, plan=plan)
        return await self._classify(decoding, deadline=deadline, priority=priority)

    def plan(self, *, frames: int | None, window_s: float | None, stride_s: float | None) -> Sampling | Windows:
        """The manifest's sampling with what the client changed of it; raises InvalidParameter with the limit."""
        sampling, fixed = self.manifest.sampling, self.manifest.network.static_frames
        if fixed is not None and frames not in (None, fixed):
            raise InvalidParameter(
                f"frames = {frames}: this model takes {fixed} frames and no other number; leave it out"
            )
        if frames is not None and frames > sampling.max_frames:
            raise InvalidParameter(f"frames = {frames} exceeds this model's {sampling.max_frames}; ask for fewer")
        if window_s is None:
            if stride_s is not None:
                raise InvalidParameter(
                    f"stride_s = {stride_s:g} has no meaning without window_s; give both, or neither"
                )
            if frames is None:
                return sampling
            return sampling.model_copy(update={"strategy": "uniform", "fps": None, "frames": frames})
        return Windows(window_s=window_s, stride_s=stride_s or window_s, frames=frames or sampling.frames)

    async def _classify(self, decoding: Awaitable[Decoded], *, deadline: float, priority: Priority) -> Answer:
        began = time.monotonic()
        decoded = await decoding
        waited = time.monotonic() - began
        clip = decoded.clip
        replica = min(self.replicas, key=lambda each: each.batcher.pending_rows)
        encoded = await replica.batcher.run(
            replica.engine, "encoder", clip.frames, deadline=deadline, priority=priority
        )
        features = encoded.outputs["features"]
        windows = clip.windows or (Window(start_s=0, end_s=0, first=0, count=len(features)),)
        judged = await self._judge(replica, features, windows, deadline=deadline, priority=priority)
        probabilities = judged.outputs["probabilities"]
        attention = judged.outputs.get("attention")
        inside_ms = decoded.decode_ms + decoded.preprocess_ms
        return Answer(
            clip,
            probabilities.mean(axis=0),
            probabilities if clip.windows else None,
            attention[0] if attention is not None and not clip.windows else None,
            replica.engine.info,
            encoded.batch_size,
            {
                "decode": decoded.decode_ms,
                "preprocess": decoded.preprocess_ms,
                "queue": max(0.0, waited * 1000 - inside_ms) + (encoded.queue_s + judged.queue_s) * 1000,
                "encode": encoded.run_s * 1000,
                "head": judged.run_s * 1000,
            },
        )

    async def _judge(
        self,
        replica: Replica,
        features: NDArray[np.float32],
        windows: tuple[Window, ...],
        *,
        deadline: float,
        priority: Priority,
    ) -> Rows:
        """Run the head over every window, those of equal length together; rows come back in the order of `windows`.

        Lengths differ where a video has fewer frames a second than were asked for.
        """
        total = sum(window.count for window in windows)
        if total > _MAX_WINDOW_FRAMES:
            raise InvalidParameter(
                f"{len(windows)} windows hold {total} frames in all, {_MAX_WINDOW_FRAMES} are allowed; "
                "raise stride_s or window_s, or lower frames"
            )
        by_length: dict[int, list[int]] = {}
        rows = [self._rows_of(window) for window in windows]
        for number, chosen in enumerate(rows):
            by_length.setdefault(len(chosen), []).append(number)
        parts = await asyncio.gather(
            *(
                replica.batcher.run(
                    replica.engine,
                    "head",
                    np.stack([features[list(rows[number])] for number in numbers]),
                    deadline=deadline,
                    priority=priority,
                )
                for numbers in by_length.values()
            )
        )
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.concatenate(list(by_length.values())))
        # Outputs over time, attention that is, have no common shape; over windows nobody asks for them.
        joined = np.concatenate([part.outputs["probabilities"] for part in parts])[order]
        return Rows(
            {"probabilities": joined},
            max(part.batch_size for part in parts),
            max(part.queue_s for part in parts),
            sum(part.run_s for part in parts),
        )

    def _rows_of(self, window: Window) -> tuple[int, ...]:
        """Positions of the window's frames; a network of fixed T sees some of too few frames several times."""
        wanted = self.manifest.network.static_frames or window.count
        return tuple(window.first + row for row in uniform(window.count, wanted, short_clip="repeat"))
