"""One live stream: who takes in what comes, who asks the model about it, and how it ends.

# Note [One frame, one lease]
A stream may last for weeks, so it holds its model for one frame at a time: a model can be unloaded while streams are open.
They go on with the version that they began with, and end when it is gone.

# Note [The frame under way]
A stream that ends lets the frame under way finish: cancelling it would cost a decode worker.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from service.api.inflow import Frame, Inflow
from service.api.problems import document
from service.api.schemas import ModelUsed, top, used
from service.api.state import State
from service.errors import (
    DeadlineExceeded,
    DecodeFailed,
    Draining,
    MareyError,
    NotReady,
    Overloaded,
    RequestError,
    TooLarge,
    TooManyPixels,
    UnknownModel,
    UnsupportedMedia,
)
from service.live import Judged, Rolling
from service.media.frames import Windows
from service.media.grid import Due, Fresh
from service.predictor import Predictor

logger = logging.getLogger(__name__)

_MAX_BROKEN = 8  # in a row

# What a frame may meet without ending its stream; and by RFC 6455 and IANA's registry, how a stream ends where it must.
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


class Session:
    """Answers what is due on `inflow`, one frame after the other, by the version of `model` that it began with."""

    def __init__(
        self,
        websocket: WebSocket,
        state: State,
        inflow: Inflow,
        *,
        model: Predictor,
        plan: Windows,
        top_k: int | None,
        timeout_s: float,
    ) -> None:
        self._websocket = websocket
        self._state = state
        self._inflow = inflow
        self._manifest = model.manifest
        self._used = used(model, model.info)
        self._rolling = Rolling(plan)
        self._plan = plan
        self._top_k = top_k
        self._timeout_s = timeout_s
        self._refused = 0
        self._answers = 0
        self._counted = 0
        self._broken = 0
        self._ended = False
        self._sending = asyncio.Lock()

    async def run(self, *, encoded: bool, limits: dict[str, Any]) -> None:
        """Until the client leaves, or says that it has sent all, or an error ends it: which is told before closing."""
        try:
            await self._send(self._ready(limits))
        except WebSocketDisconnect:
            return
        answering = asyncio.create_task(self._answer())
        coming = [asyncio.create_task(self._inflow.read(self._websocket, refuse=self._refuse))]
        if encoded:
            coming.append(asyncio.create_task(self._inflow.decode()))
        try:
            fault, pending = None, {answering, *coming}
            while fault is None and not answering.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                fault = next((error for task in done if (error := task.exception()) is not None), None)
            self._ended = True
            self._inflow.waiting.close()
            for task in coming:
                task.cancel()
            await self._close(fault)
            await asyncio.wait({answering, *coming})
        finally:
            for task in (answering, *coming):
                task.cancel()
            await asyncio.gather(answering, *coming, return_exceptions=True)
            ran = self._used
            self._websocket.state.answered_by = {
                "model": ran.name,
                "version": ran.version,
                "engine": ran.engine,
                "precision": ran.precision,
                "answers": self._answers,
                "dropped": self.dropped,
            }

    async def _close(self, fault: BaseException | None) -> None:
        if isinstance(fault, WebSocketDisconnect):
            return
        error = fault if isinstance(fault, MareyError) else MareyError("an error in the service, not in the stream")
        if fault is not None and fault is not error:
            logger.error("stream %s failed unexpectedly", self._websocket.state.request_id, exc_info=fault)
        try:
            if fault is None:
                await self._websocket.close(1000)
                return
            await self._send(self._problem(error, ends=True))
            code = next((code for kind, code in _CLOSING if isinstance(error, kind)), 1011)
            await self._websocket.close(code, reason=error.code)
        except (WebSocketDisconnect, RuntimeError):  # the client has left meanwhile
            pass

    async def _answer(self) -> None:
        """Ask the model about each frame that is due. Raises MareyError where the stream must end."""
        while (due := await self._inflow.waiting.get()) is not None:
            try:
                message = await self._see(due)
            except _PASSING as error:
                message = self._passed_over(due, error)
            self._state.stream_frames_dropped += self.dropped - self._counted
            self._counted = self.dropped
            if message is not None and not self._ended:
                await self._send(message)
                self._answers += 1

    def _passed_over(self, due: Due[Frame], error: MareyError) -> dict[str, Any]:
        if isinstance(error, Overloaded | DeadlineExceeded):
            self._refused += 1
        else:
            self._broken += 1
            if self._broken == _MAX_BROKEN:
                raise error
        return self._problem(error, time_s=due.frame.time_s)

    async def _refuse(self, error: RequestError, time_s: float | None) -> None:
        """Say what is left out while the stream goes on."""
        await self._send(self._problem(error, time_s=time_s))

    async def _see(self, due: Due[Frame]) -> dict[str, Any] | None:
        """What the model says now that this frame is there, or None where the stride leaves it out."""
        taken, name = time.monotonic(), f"{self._manifest.name}:{self._manifest.version}"
        deadline = taken + self._timeout_s
        try:
            async with asyncio.timeout(self._timeout_s), self._state.registry.lease(name, task="video") as model:
                if model.manifest != self._manifest:
                    raise UnknownModel(f"the model {name} was replaced by another of this version; open a new stream")
                fresh = await self._decoded(due.frame.data)
                at_engine = time.monotonic()
                asked = model.asked(deadline=deadline, priority="interactive")
                judged = await self._rolling.see(fresh.pixels, first=due.first, last=due.last, model=model, asked=asked)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {self._timeout_s:g} s; raise timeout_ms") from None
        self._broken = 0
        if judged is None:
            return None
        inside_s = 0.0 if isinstance(due.frame.data, Fresh) else (fresh.decode_ms + fresh.preprocess_ms) / 1000
        timings = {
            "wait": (taken - due.frame.arrived) * 1000,
            "decode": fresh.decode_ms,
            "preprocess": fresh.preprocess_ms,
            "queue": (max(0.0, at_engine - taken - inside_s) + sum(each.queue_s for each in judged.through)) * 1000,
            "encode": judged.through[0].run_s * 1000,
            "head": sum(each.run_s for each in judged.through[1:]) * 1000,
            "total": (time.monotonic() - due.frame.arrived) * 1000,
        }
        self._state.telemetry.stages(self._manifest.name, timings)
        return self._prediction(due, judged, ran=used(model, asked.info), timings=timings)

    async def _decoded(self, data: bytes | Fresh) -> Fresh:
        with self._state.admission.enter() as ticket:
            ticket.hold(len(data) if isinstance(data, bytes) else data.pixels.nbytes)
            ticket.queue(1)
            if isinstance(data, Fresh):
                return data
            decoded = await self._state.registry.decoders.image(data, spec=self._manifest.input)
        return Fresh(decoded.clip.frames, 0.0, decoded.decode_ms, decoded.preprocess_ms)

    def _prediction(
        self, due: Due[Frame], judged: Judged, *, ran: ModelUsed, timings: dict[str, float]
    ) -> dict[str, Any]:
        origin = self._inflow.origin_s
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
        return self._inflow.waiting.dropped + self._refused

    def _problem(self, error: MareyError, *, time_s: float | None = None, ends: bool = False) -> dict[str, Any]:
        told: dict[str, Any] = {"type": "problem", "ends": ends, "dropped": self.dropped}
        if time_s is not None:
            told["time_s"] = round(time_s, 6)
        if error.retry_after_s is not None:
            told["retry_after_s"] = math.ceil(error.retry_after_s)
        problem = document(
            self._websocket, status=error.status, code=error.code, title=error.title, detail=error.detail
        )
        if not ends:  # of one frame, and not what the log should say of the stream
            del self._websocket.state.code
        return {**told, "problem": problem}

    def _ready(self, limits: dict[str, Any]) -> dict[str, Any]:
        plan = self._plan
        return {
            "type": "ready",
            "model": self._used.model_dump(),
            "spacing_s": plan.window_s / plan.frames,
            "frames": plan.frames,
            "window_s": plan.window_s,
            "stride_s": self._rolling.stride_s,
            "limits": limits,
            "request_id": self._websocket.state.request_id,
        }

    async def _send(self, message: dict[str, Any]) -> None:
        """Waits while the client does not read: meanwhile frames are dropped, and nothing piles up."""
        async with self._sending:  # who answers and who refuses are two
            await self._websocket.send_text(json.dumps(message, ensure_ascii=False))
