"""What comes in on a live stream, and what of it is due: images with their times, or encoded video."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.bundle.manifest import Input
from service.errors import InvalidParameter, Malformed, RequestError, TooLarge
from service.live import Waiting
from service.media.grid import Container, Due, Fresh, Grid
from service.media.live_decoder import LiveDecoder

Format = Literal["images", Container]

WAITING_FRAMES = 2  # more would only make answers late: what comes too fast is dropped either way
IDLE_S = 60.0
_MAX_TEXT = 1000


class Clock(BaseModel):
    """When the next image begins, by the client's clock, and for how long it is shown if that is known."""

    model_config = ConfigDict(extra="forbid")

    time_s: Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]
    duration_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0


class End(BaseModel):
    """Nothing more will come: what waits is answered, and then the stream is closed."""

    model_config = ConfigDict(extra="forbid")

    end: Literal[True]


# Tells the client what was left out, and why; with its time, where it has one.
Refuse = Callable[[RequestError, float | None], Awaitable[None]]

_TEXTS: TypeAdapter[Clock | End] = TypeAdapter(Clock | End)


@dataclass(frozen=True, slots=True)
class Frame:
    """An image as it came, or a frame that is decoded already. `arrived` in monotonic seconds, `time_s` by the stream's clock."""

    data: bytes | Fresh
    time_s: float
    arrived: float


class Inflow:
    """Puts what is due into `waiting`. With `hold` the client waits where that is full; else the oldest falls out.

    `decoder`: of an encoded stream, to be closed by the caller.
    """

    def __init__(
        self, *, spacing_s: float, spec: Input, form: Format, decoder: LiveDecoder | None, hold: bool, max_bytes: int
    ) -> None:
        self.waiting: Waiting[Due[Frame]] = Waiting(WAITING_FRAMES)
        self._grid: Grid[Frame] = Grid(spacing_s)
        self._spacing_s = spacing_s
        self._spec = spec
        self._form = form
        self._decoder = decoder
        self._hold = hold
        self._max_bytes = max_bytes
        self._clock: Clock | None = None
        self._has_clock: bool | None = None
        self._told_s: float | None = None  # the latest time that the client told
        self._ended = False
        self._began = 0.0
        self._arrived = 0.0

    @property
    def origin_s(self) -> float:
        """When the first frame began, by the stream's clock."""
        return self._grid.origin_s or 0.0

    async def read(self, websocket: WebSocket, *, refuse: Refuse) -> None:
        """Take in what comes. Raises WebSocketDisconnect at its end, and MareyError where it must end.

        `refuse` is told of what is left out while the stream goes on: images after the end, and those whose time steps back.
        """
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    message = await websocket.receive()
            except TimeoutError:
                raise RequestError(f"nothing came for {IDLE_S:g} s; open a new stream when there are frames") from None
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            self._arrived = time.monotonic()
            data: bytes | None = message.get("bytes")
            if data is None:
                await self._understand(message["text"])
            elif len(data) > self._max_bytes:
                raise TooLarge(
                    f"the message has {len(data)} bytes, at most {self._max_bytes} are taken; send smaller ones"
                )
            elif self._ended:
                clock, self._clock = self._clock, None
                error = Malformed('this came after {"end": true}, and is left out; open a new stream for what follows')
                await refuse(error, None if clock is None else clock.time_s)
            elif self._decoder is not None:
                await self._decoder.write(data)
            else:
                await self._take(data, refuse=refuse)

    async def decode(self) -> None:
        """Take what the decoder makes of it, to its end."""
        assert self._decoder is not None
        assert self._form != "images"
        frames = self._decoder.frames(container=self._form, spec=self._spec, spacing_s=self._spacing_s)
        async for due in frames:
            await self._put(Due(Frame(due.frame, due.frame.time_s, self._arrived), due.first, due.last))
        self.waiting.finish()

    async def _understand(self, text: str) -> None:
        if self._clock is not None:
            raise Malformed("two texts in a row; send each image right after its time")
        try:
            told = _TEXTS.validate_json(text[:_MAX_TEXT])
        except ValidationError as error:
            raise Malformed(
                f'{text[:80]!r} is not understood ({error.errors()[0]["msg"]}); send {{"time_s": SECONDS}} and then the image, '
                'as a binary message, or {"end": true}'
            ) from None
        if isinstance(told, Clock):
            if self._decoder is not None:
                raise Malformed("an encoded stream has its own times; leave time_s out")
            self._clock = told
        elif not self._ended:
            self._ended = True
            if self._decoder is not None:
                self._decoder.finish()
                return
            for due in self._grid.end():
                await self._put(due)
            self.waiting.finish()

    async def _take(self, image: bytes, *, refuse: Refuse) -> None:
        clock, self._clock = self._clock, None
        if self._has_clock is None:
            self._has_clock, self._began = clock is not None, self._arrived
        if self._has_clock != (clock is not None):
            raise Malformed("some images have times and others have none; send all with their times, or none")
        if clock is not None:
            if self._told_s is not None and clock.time_s < self._told_s:
                error = InvalidParameter(
                    f"time_s = {clock.time_s!r} steps back behind the {self._told_s!r} of an image before it, which is left out; "
                    "send times that never decrease, or open a new stream"
                )
                await refuse(error, clock.time_s)
                return
            self._told_s = clock.time_s
        # Without times, an image stands for the point that follows: so its answer need not wait for the next one.
        clock = clock or Clock(time_s=self._arrived - self._began, duration_s=self._spacing_s)
        frame = Frame(image, clock.time_s, self._arrived)
        for due in self._grid.arrive(frame, time_s=clock.time_s, duration_s=clock.duration_s):
            await self._put(due)

    async def _put(self, due: Due[Frame]) -> None:
        if self._hold:
            await self.waiting.room()
        self.waiting.put(due)
