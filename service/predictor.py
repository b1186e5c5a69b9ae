"""The pipeline of one model: decode → encode → head → answer; a clip network is both in one.

An image is a clip of one frame: there is no second path.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Manifest, Sampling
from service.bundle.store import Bundle
from service.engine.base import EngineInfo
from service.errors import InvalidParameter
from service.inputs import Inputs
from service.media.frames import Clip, Decoded, ImageInfo, Window, Windows
from service.media.sample import uniform
from service.media.workers import DecodePool
from service.priority import Priority
from service.replica import Asked, Replica
from service.traces import stage

# Of all windows of one video together: a head reads so many features, a clip network computes so many frames.
MAX_WINDOW_FRAMES = 16_384


@dataclass(frozen=True, slots=True)
class Answer:
    """What the network said of one clip.

    `probabilities` `[K]`: of the clip, or the mean over its windows; `windowed` `[W, K]` belongs to `clip.windows`, and is
    None where none were asked for; `attention` `[T]` sums to 1, `positions` `[P, K]` are the probabilities of each frame or
    place, and both are None where the model has none or windows were cut. `batch_size`: frames that ran together.
    """

    clip: Clip
    probabilities: NDArray[np.float32]
    windowed: NDArray[np.float32] | None
    attention: NDArray[np.float32] | None
    positions: NDArray[np.float32] | None
    positions_are_frames: bool
    engine: EngineInfo
    batch_size: int
    timings_ms: dict[str, float]


class Predictor:
    """Joins one opened bundle, its replicas, one a device, and the decoders. A clip stays on the device that it began on."""

    def __init__(self, bundle: Bundle, *, replicas: tuple[Replica, ...], decoders: DecodePool) -> None:
        self.bundle = bundle
        self.replicas = replicas
        self._decoders = decoders
        self._postprocess = bundle.postprocess()
        quantized = any(replica.engine.info.precision == "int8" for replica in replicas)
        self.inputs = Inputs(bundle.manifest) if quantized else None

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

    def input_drift(self) -> dict[str, tuple[float, float]]:
        """By measure, as `Shift` has it: index and share outside. Empty where nothing is known yet, or nothing runs in INT8."""
        read = ((name, shift.index, shift.outside) for name, shift in self.inputs.shifts.items()) if self.inputs else ()
        return {name: (index, outside) for name, index, outside in read if index is not None and outside is not None}

    def asked(self, *, deadline: float, priority: Priority) -> Asked:
        """The networks, for one request, on the device with the least to do."""
        replica = min(self.replicas, key=lambda each: each.batcher.pending_rows)
        return replica.asked(deadline=deadline, priority=priority, inputs=self.inputs)

    def device_s(self, frames: int) -> float:
        """What a clip of `frames` will take of the device, by what others took; 0 where there were none yet."""
        return min(replica.seconds(frames) for replica in self.replicas)

    async def image(
        self,
        source: bytes | Path,
        *,
        deadline: float,
        priority: Priority = "interactive",
        arrived: Callable[[Decoded], None] = lambda _decoded: None,
    ) -> Answer:
        """Classify an encoded image. `deadline`: monotonic seconds. Raises RequestError, ServiceError or EngineError.

        `arrived` is told once it is decoded, and may raise.
        """
        decoding = self._decoders.image(source, spec=self.manifest.input, priority=priority)
        return await self._classify(decoding, deadline=deadline, priority=priority, arrived=arrived)

    async def video(
        self,
        source: bytes | Path,
        *,
        plan: Sampling | Windows,
        deadline: float,
        priority: Priority = "interactive",
        arrived: Callable[[Decoded], None] = lambda _decoded: None,
    ) -> Answer:
        """Classify an encoded video by the frames that `plan` picks, as `image`; see `plan` for what a client may ask."""
        decoding = self._decoders.video(source, spec=self.manifest.input, plan=plan, priority=priority)
        return await self._classify(decoding, deadline=deadline, priority=priority, arrived=arrived)

    @property
    def frame_bytes(self) -> int:
        """Of one decoded frame."""
        spec = self.manifest.input
        return spec.height * spec.width * spec.channels

    def frames(self, plan: Sampling | Windows | None) -> int:
        """How many frames a clip of `plan` has, or an image, of None: the most of one, and of windows those of the first."""
        fixed = self.manifest.network.static_frames
        if fixed or plan is None:
            return fixed or 1
        return plan.max_frames if isinstance(plan, Sampling) and plan.fps else plan.frames

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
        return Windows(window_s=window_s, stride_s=stride_s or window_s, frames=frames or fixed or sampling.frames)

    async def _classify(
        self,
        decoding: Awaitable[Decoded],
        *,
        deadline: float,
        priority: Priority,
        arrived: Callable[[Decoded], None],
    ) -> Answer:
        began = time.monotonic()
        decoded = await decoding
        arrived(decoded)
        waited = time.monotonic() - began
        _note(decoded, began, began + waited)
        clip = decoded.clip if decoded.clip.windows else self._lengthened(decoded.clip)
        asked = self.asked(deadline=deadline, priority=priority)
        if clip.windows:
            source, encoded = await asked.encode(clip.frames)
            judged = await asked.judge(source, self._chosen(clip.windows))
        else:
            encoded, judged = await asked.clip(clip.frames)
        through = (judged,) if encoded is None else (encoded, judged)
        probabilities, whole = judged.outputs["probabilities"], not clip.windows
        positions = judged.outputs["positions"][0] if whole and "positions" in judged.outputs else None
        framed = positions is not None and len(positions) == len(clip.indices) and not self.manifest.tells_places
        if framed and isinstance(clip.source, ImageInfo):
            positions = None  # it is one frame, of which the probabilities say it all
        if positions is not None:
            positions = self._postprocess.positions(positions[None])[0]
        inside_ms = decoded.decode_ms + decoded.preprocess_ms
        return Answer(
            clip,
            probabilities.mean(axis=0),
            None if whole else probabilities,
            judged.outputs["attention"][0] if whole and "attention" in judged.outputs else None,
            positions,
            framed,
            asked.info,
            through[0].batch_size,
            {
                "decode": decoded.decode_ms,
                "preprocess": decoded.preprocess_ms,
                "queue": max(0.0, waited * 1000 - inside_ms) + sum(each.queue_s for each in through) * 1000,
                "encode": through[0].run_s * 1000,
                "head": sum(each.run_s for each in through[1:]) * 1000,
            },
        )

    def _chosen(self, windows: tuple[Window, ...]) -> list[tuple[int, ...]]:
        """Positions of each window's frames. Raises InvalidParameter where there are too many."""
        total = sum(window.count for window in windows)
        if total > MAX_WINDOW_FRAMES:
            raise InvalidParameter(
                f"{len(windows)} windows hold {total} frames in all, {MAX_WINDOW_FRAMES} are allowed; "
                "raise stride_s or window_s, or lower frames"
            )
        return [self.rows_of(window.first, window.count) for window in windows]

    def rows_of(self, first: int, count: int) -> tuple[int, ...]:
        """Positions of a clip of rows `first` to `first + count`; a network of fixed T sees some of too few several times."""
        wanted = self.manifest.network.static_frames or count
        return tuple(first + row for row in uniform(count, wanted, short_clip="repeat"))

    def _lengthened(self, clip: Clip) -> Clip:
        """The clip as a network of fixed T sees it: with a warning where frames are repeated."""
        fixed, count = self.manifest.network.static_frames, len(set(clip.indices))
        if fixed is None:
            return clip
        if len(clip.indices) != fixed:
            rows = uniform(len(clip.indices), fixed, short_clip="repeat")
            clip = replace(
                clip,
                frames=clip.frames[list(rows)],
                indices=tuple(clip.indices[row] for row in rows),
                times_s=tuple(clip.times_s[row] for row in rows),
            )
        if count >= fixed:
            return clip
        frames = "one frame is" if count == 1 else f"{count} frames are"
        what = "the image is" if isinstance(clip.source, ImageInfo) else f"the video's {frames}"
        warning = f"the model takes {fixed} frames and no other number: {what} repeated"
        return replace(clip, warnings=(*clip.warnings, warning))


def _note(decoded: Decoded, began: float, ended: float) -> None:
    """For the trace: how long the file waited for a decoder, and what that did with it."""
    at = ended - (decoded.decode_ms + decoded.preprocess_ms) / 1000
    stage("queue", began, max(began, at), waits_for="decoder")
    stage("decode", max(began, at), at + decoded.decode_ms / 1000, frames=len(decoded.clip.frames))
    stage("preprocess", at + decoded.decode_ms / 1000, ended)
