"""A live stream as a window that rolls: which of its frames are looked at, and what the model says of the last ones.

The grid is that of `sample.by_windows`: points (j + 0.5)·spacing after the first frame, each showing the frame that was the last
to begin. So the answer at point j is that of a file's window which ends there, and each frame goes through the encoder once.
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
from service.media.sample import TICK_S
from service.predictor import Predictor
from service.replica import Asked
from service.waiting import Rows

# Of a model that is trained on whole clips, and so has no spacing of its own.
WINDOW_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Due(Generic[T]):
    """A frame to be looked at: it is what the stream shows at the points `first` to `last` of the grid."""

    frame: T
    first: int
    last: int


class Grid(Generic[T]):
    """Tells the frames that fall on the grid from those between its points, as they come.

    A frame is shown until the next one begins, and so is due only then; unless it comes with the time that it is shown for.
    """

    def __init__(self, spacing_s: float) -> None:
        self.spacing_s = spacing_s
        self.origin_s: float | None = None
        self._next = 0  # the first point whose frame is not known
        self._now = 0.0
        self._shown: T | None = None

    def arrive(self, frame: T, *, time_s: float, duration_s: float = 0.0) -> list[Due[T]]:
        """What is due now that `frame` begins at `time_s`, by the stream's clock: the frame before it, itself, both or none.

        A time that steps back counts as that of the frame before, as in a file.
        """
        if self.origin_s is None:
            self.origin_s = time_s
        # In microseconds: a clock that counts from 1970 is not exact beyond, and a tie with a point would be chance.
        self._now = max(self._now, round(time_s - self.origin_s, 6))
        due = self._until(self._now)
        self._shown = frame
        return [*due, *self._until(self._now + duration_s)]

    def _until(self, end_s: float) -> list[Due[T]]:
        """The frame that is shown, with the points before `end_s` that are new; whoever was due already is not so again."""
        first = self._next
        self._next = max(first, self._points_before(end_s))
        if self._next == first or self._shown is None:
            return []
        due, self._shown = Due(self._shown, first, self._next - 1), None
        return [due]

    def _points_before(self, end_s: float) -> int:
        """How many points a frame that begins at `end_s` is too late for."""
        count = max(0, math.ceil((end_s - TICK_S) / self.spacing_s - 0.5))
        # The division may round to either side of a point: the comparison is that of `sample`.
        while count and (count - 0.5) * self.spacing_s + TICK_S >= end_s:
            count -= 1
        while (count + 0.5) * self.spacing_s + TICK_S < end_s:
            count += 1
        return count


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
        self._closed = False
        self.dropped = 0

    def put(self, item: T) -> None:
        if len(self._items) == self._size:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._changed.set()

    def close(self) -> None:
        """Nobody waits for what is still here."""
        self._closed = True
        self._items.clear()
        self._changed.set()

    async def get(self) -> T | None:
        """The oldest, once there is one; None after the end."""
        while not self._items and not self._closed:
            self._changed.clear()
            await self._changed.wait()
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
