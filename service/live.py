"""A live stream as a window that rolls: what the model says of the frames at the last points of its grid (`media/grid.py`).

The answer at a point is that of a file's window which ends there, and each frame goes through the encoder once.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.media.frames import Windows
from service.predictor import Predictor
from service.replica import Asked
from service.waiting import Rows

# Of a model that is trained on whole clips, and so has no spacing of its own.
WINDOW_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Judged:
    """What the model said of the window that ends with point `last`: `probabilities` `[K]`; `rows` frames stood in it."""

    probabilities: NDArray[np.float32]
    start_s: float
    end_s: float
    filled: float
    rows: int
    through: tuple[Rows, ...]


class Rolling:
    """The rows of the last points: features, or for a clip network the frames themselves. One coroutine at a time."""

    def __init__(self, plan: Windows) -> None:
        self._plan = plan
        self._spacing_s = plan.window_s / plan.frames
        self._stride = max(1, math.floor(plan.stride_s / self._spacing_s + 0.5))
        self._rows: deque[tuple[int, NDArray[np.generic]]] = deque()  # with the first point that each is shown at
        self._answered: int | None = None

    @property
    def stride_s(self) -> float:
        """As used: a multiple of the spacing."""
        return self._stride * self._spacing_s

    async def see(
        self, frame: NDArray[np.uint8], *, first: int, last: int, model: Predictor, asked: Asked
    ) -> Judged | None:
        """Encode `frame` `[1, H, W, C]`, shown at the points `first` to `last`, and judge the window that ends there.

        None where the stride leaves this frame out. Raises as `Asked` does; the window is then as if the frame before it
        were still shown.
        """
        source, encoded = await asked.encode(frame)
        self._rows.append((first, source[0]))
        start = max(0, last + 1 - self._plan.frames)
        while len(self._rows) > 1 and self._rows[1][0] <= start:
            self._rows.popleft()
        if self._answered is not None and last - self._answered < self._stride:
            return None
        rows = np.stack([row for _, row in self._rows])
        judged = await asked.judge(rows, [model.rows_of(0, len(rows))])
        self._answered = last
        return Judged(
            judged.outputs["probabilities"][0],
            start * self._spacing_s,
            (last + 1) * self._spacing_s,
            (last + 1 - start) / self._plan.frames,
            len(rows),
            (judged,) if encoded is None else (encoded, judged),
        )


class Waiting(Generic[T]):
    """A queue that never grows beyond `size`: the newest come in, and the oldest fall out and are counted."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def put(self, item: T) -> None:
        if len(self._items) == self._size:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._changed.set()

    async def room(self) -> None:
        """Wait until nothing would fall out."""
        while len(self._items) == self._size and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    def finish(self) -> None:
        """No more will come; what is here is still wanted."""
        self._closed = True
        self._changed.set()
        self._taken.set()

    def close(self) -> None:
        """Nobody waits for what is still here."""
        self._items.clear()
        self.finish()

    async def get(self) -> T | None:
        """The oldest, once there is one; None after the end."""
        while not self._items and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        self._taken.set()
        return self._items.popleft() if self._items else None


def plan_of(model: Predictor, *, frames: int | None, window_s: float | None, stride_s: float | None) -> Windows:
    """The window that rolls over a stream: the manifest's, or `WINDOW_S`, with what the client changed of it.

    By default there is an answer for each frame. Raises InvalidParameter with the limit.
    """
    sampling = model.manifest.sampling
    count = frames or model.manifest.network.static_frames or sampling.frames
    length = window_s or (count / sampling.fps if sampling.fps else WINDOW_S)
    plan = model.plan(frames=frames, window_s=length, stride_s=stride_s or length / count)
    assert isinstance(plan, Windows)
    return plan
