"""One live stream over a WebSocket: images in as they come, what they show out.

The client sends images as binary messages, each after a text message `{"time_s": …, "duration_s": …}` if it has a clock of its
own, and gets JSON. A frame that falls between the points of the grid costs nothing. Where frames come faster than they are
answered the oldest that waits is dropped, and counted in the next message: what is said is said of now.

# Note [One frame, one lease]
A stream may last for weeks, so it holds its model for one frame at a time: a model can be unloaded while streams are open.
They go on with the version that they began with, and end when it is gone.

# Note [The frame under way]
A stream that ends lets the frame under way finish: cancelling it would cost a decode worker.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.problems import document
from service.api.schemas import ModelUsed, top, used
from service.api.state import State
from service.errors import (
    DeadlineExceeded,
    DecodeFailed,
    Draining,
    Malformed,
    MareyError,
    NotReady,
    Overloaded,
    RequestError,
    TooLarge,
    TooManyPixels,
    UnknownModel,
    UnsupportedMedia,
)
from service.live import Due, Grid, Judged, Rolling, Waiting
from service.media.frames import Decoded, Windows
from service.predictor import Predictor
from service.settings import Settings

WAITING_FRAMES = 4
IDLE_S = 60.0
_MAX_FRAME_BYTES = 8 * 2**20
_MAX_TEXT = 1000
_MAX_BROKEN = 8  # in a row
_TIMEOUT_MS = 5000

# What a frame may meet without ending its stream; by RFC 6455 and IANA's registry, how a stream ends where it must.
_PASSING = (Overloaded, DeadlineExceeded, DecodeFailed, UnsupportedMedia, TooManyPixels)
_CLOSING: tuple[tuple[type[MareyError], int], ...] = (
    (TooLarge, 1009),
    (Draining, 1012),
    (UnknownModel, 1012),
    (NotReady, 1013),
    (Overloaded, 1013),
    (UnsupportedMedia, 1003),
    (DecodeFailed, 1007),
    (RequestError, 1008),
)


class Clock(BaseModel):
    """When the next frame begins, by the client's clock, and for how long it is shown if that is known."""

    model_config = ConfigDict(extra="forbid")

    time_s: Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]
    duration_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One image as it came: `arrived` in monotonic seconds, `time_s` by the stream's clock."""

    data: bytes
    time_s: float
    arrived: float


def max_frame_bytes(settings: Settings) -> int:
    return min(_MAX_FRAME_BYTES, settings.max_upload_bytes)


class Session:
    """One stream, from the first frame to the last: a reader that never waits for the answers, and whoever answers."""

    def __init__(
        self,
        websocket: WebSocket,
        state: State,
        model: Predictor,
        plan: Windows,
        *,
        top_k: int | None,
        timeout_ms: int | None,
    ) -> None:
        self._websocket = websocket
        self._state = state
        self._manifest = model.manifest
        self._used = used(model, model.info)
        self._plan = plan
        self._top_k = top_k
        most_ms = state.settings.timeout_ms
        self._timeout_s = min(most_ms, timeout_ms or _TIMEOUT_MS) / 1000
        self._spacing_s = plan.window_s / plan.frames
        self._grid: Grid[Frame] = Grid(self._spacing_s)
        self._rolling = Rolling(plan)
        self._waiting: Waiting[Due[Frame]] = Waiting(WAITING_FRAMES)
        self._refused = 0
        self._broken = 0
        self._clock: Clock | None = None
        self._has_clock: bool | None = None
        self._began = 0.0

    async def run(self) -> None:
        """Until the client leaves or an error ends it; then the frame under way is finished, and nothing is sent of it."""
        try:
            await self._send(self._ready())
        except WebSocketDisconnect:
            return
        reader, answerer = asyncio.create_task(self._read()), asyncio.create_task(self._answer())
        try:
            done, _ = await asyncio.wait({reader, answerer}, return_when=asyncio.FIRST_COMPLETED)
            fault = next((error for task in done if (error := task.exception()) is not None), None)
            self._waiting.close()
            reader.cancel()
            if fault is not None and not isinstance(fault, WebSocketDisconnect):
                await self._end(fault)
            await asyncio.wait({reader, answerer})
        finally:
            reader.cancel()
            answerer.cancel()
            await asyncio.gather(reader, answerer, return_exceptions=True)

    async def _end(self, fault: BaseException) -> None:
        error = fault if isinstance(fault, MareyError) else MareyError("an error in the service, not in the stream")
        code = next((code for kind, code in _CLOSING if isinstance(error, kind)), 1011)
        try:
            await self._send(self._problem(error, ends=True))
            await self._websocket.close(code, reason=error.code)
        except (WebSocketDisconnect, RuntimeError):  # it has left meanwhile
            pass
        if not isinstance(fault, MareyError):
            raise fault

    async def _read(self) -> None:
        """Take in what comes, and put aside what is due. Raises WebSocketDisconnect at the end, MareyError where it must end."""
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    message = await self._websocket.receive()
            except TimeoutError:
                raise RequestError(f"no frame came for {IDLE_S:g} s; open a new stream when there are some") from None
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            if (data := message.get("bytes")) is not None:
                self._take(data)
            else:
                self._set_clock(message["text"])

    def _set_clock(self, text: str) -> None:
        if self._clock is not None:
            raise Malformed("two times in a row; send each image right after its time")
        try:
            self._clock = Clock.model_validate_json(text[:_MAX_TEXT])
        except ValidationError as error:
            fault = error.errors()[0]
            raise Malformed(
                f'{text[:80]!r} is no time ({fault["msg"]}); send {{"time_s": SECONDS}} and then the image, as a binary message'
            ) from None

    def _take(self, data: bytes) -> None:
        limit = max_frame_bytes(self._state.settings)
        if len(data) > limit:
            raise TooLarge(f"the frame has {len(data)} bytes, at most {limit} are taken; send it smaller")
        arrived, clock, self._clock = time.monotonic(), self._clock, None
        if self._has_clock is None:
            self._has_clock, self._began = clock is not None, arrived
        if self._has_clock != (clock is not None):
            raise Malformed("some frames have times and others have none; send all with their times, or none")
        # Without times, a frame stands for the point that follows: so its answer need not wait for the next frame.
        clock = clock or Clock(time_s=arrived - self._began, duration_s=self._spacing_s)
        frame = Frame(data, clock.time_s, arrived)
        for due in self._grid.arrive(frame, time_s=clock.time_s, duration_s=clock.duration_s):
            self._waiting.put(due)

    async def _answer(self) -> None:
        """Ask the model about each frame that is due, one after the other. Raises MareyError where the stream must end."""
        while (due := await self._waiting.get()) is not None:
            try:
                message = await self._see(due)
            except _PASSING as error:
                message = self._passed_over(due, error)
            if message is not None:
                await self._send(message)

    def _passed_over(self, due: Due[Frame], error: MareyError) -> dict[str, Any]:
        if isinstance(error, Overloaded | DeadlineExceeded):
            self._refused += 1
        else:
            self._broken += 1
            if self._broken == _MAX_BROKEN:
                raise error
        return self._problem(error, due=due)

    async def _see(self, due: Due[Frame]) -> dict[str, Any] | None:
        taken, name = time.monotonic(), f"{self._manifest.name}:{self._manifest.version}"
        deadline = taken + self._timeout_s
        try:
            async with asyncio.timeout(self._timeout_s), self._state.registry.lease(name, task="video") as model:
                if model.manifest != self._manifest:
                    raise UnknownModel(f"the model {name} was replaced by another of this version; open a new stream")
                with self._state.admission.enter() as ticket:
                    ticket.hold(len(due.frame.data))
                    ticket.queue(1)
                    decoded = await self._state.registry.decoders.image(due.frame.data, spec=self._manifest.input)
                    ticket.decoded()
                    at_engine = time.monotonic()
                    asked = model.asked(deadline=deadline, priority="interactive")
                    judged = await self._rolling.see(
                        decoded.clip.frames, first=due.first, last=due.last, model=model, asked=asked
                    )
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {self._timeout_s:g} s; raise timeout_ms") from None
        self._broken = 0
        if judged is None:
            return None
        ran = used(model, asked.replica.engine.info)
        return self._prediction(due, judged, decoded, ran, taken=taken, at_engine=at_engine)

    def _prediction(
        self, due: Due[Frame], judged: Judged, decoded: Decoded, ran: ModelUsed, *, taken: float, at_engine: float
    ) -> dict[str, Any]:
        now, origin, through = time.monotonic(), self._grid.origin_s or 0.0, judged.through
        inside_ms = decoded.decode_ms + decoded.preprocess_ms
        timings = {
            "wait": (taken - due.frame.arrived) * 1000,
            "decode": decoded.decode_ms,
            "preprocess": decoded.preprocess_ms,
            "queue": max(0.0, (at_engine - taken) * 1000 - inside_ms) + sum(each.queue_s for each in through) * 1000,
            "encode": through[0].run_s * 1000,
            "head": sum(each.run_s for each in through[1:]) * 1000,
            "total": (now - due.frame.arrived) * 1000,
        }
        self._state.telemetry.stages(self._manifest.name, timings)
        predictions = top(judged.probabilities, self._manifest.labels, self._top_k)
        return {
            "type": "prediction",
            "time_s": round(due.frame.time_s, 6),
            "window": {
                "start_s": round(origin + judged.start_s, 6),
                "end_s": round(origin + judged.end_s, 6),
                "frames": judged.rows,
            },
            "filled": round(judged.filled, 4),
            "predictions": [each.model_dump() for each in predictions],
            "model": ran.model_dump(),
            "latency_ms": round(timings["total"], 3),
            "dropped": self.dropped,
            "timings_ms": {stage: round(milliseconds, 3) for stage, milliseconds in timings.items()},
        }

    @property
    def dropped(self) -> int:
        """Frames that were due and are not in the window: those that waited too long, and those that were refused."""
        return self._waiting.dropped + self._refused

    def _problem(self, error: MareyError, *, due: Due[Frame] | None = None, ends: bool = False) -> dict[str, Any]:
        told: dict[str, Any] = {"type": "problem", "ends": ends, "dropped": self.dropped}
        if due is not None:
            told["time_s"] = round(due.frame.time_s, 6)
        problem = document(
            self._websocket, status=error.status, code=error.code, title=error.title, detail=error.detail
        )
        if error.retry_after_s is not None:
            told["retry_after_s"] = math.ceil(error.retry_after_s)
        return {**told, "problem": problem}

    def _ready(self) -> dict[str, Any]:
        settings, plan = self._state.settings, self._plan
        return {
            "type": "ready",
            "model": self._used.model_dump(),
            "spacing_s": self._spacing_s,
            "frames": plan.frames,
            "window_s": plan.window_s,
            "stride_s": self._rolling.stride_s,
            "limits": {
                "max_frame_bytes": max_frame_bytes(settings),
                "max_pixels": settings.max_pixels,
                "waiting_frames": WAITING_FRAMES,
                "timeout_ms": round(self._timeout_s * 1000),
                "idle_s": IDLE_S,
            },
            "request_id": self._websocket.state.request_id,
        }

    async def _send(self, message: dict[str, Any]) -> None:
        """Waits while the client does not read: meanwhile frames are dropped, and nothing piles up."""
        await self._websocket.send_text(json.dumps(message, ensure_ascii=False))
