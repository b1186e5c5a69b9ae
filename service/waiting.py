"""What waits for the device, and which of it runs next.

# Note [Who goes first]
Interactive entries go before bulk ones. Within a priority those go first that one network has seen and the next has not: they
would else wait for others' turns twice. Then the oldest goes first, each with all others of its kind that fit.
A batch of several takes at most `batch_s` by what was measured: whoever is admitted may wait for what is under way and then for
all that share his own batch, and where both were as long as the whole budget of the queue, he would wait for twice that.
While both priorities wait, bulk is owed `BULK_SHARE` of the device's time: once it is owed an entry, its batch goes first.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Stage
from service.engine.base import Engine, EngineInfo, Outputs
from service.gathered import Gathered
from service.pace import Pace
from service.priority import PRIORITIES, Priority

# Of the budget of the queue; see Note [Who goes first].
BATCH_SHARE = 0.3
BATCH_S = 0.03
BULK_SHARE = 0.1

# Which network of which engine: each has a speed of its own.
Network = tuple[int, Stage]


@dataclass(frozen=True, slots=True)
class Rows:
    """What one caller gets back: `outputs[name]` has as many rows as it sent; `batch_size` counts the rows that ran together.

    `ran_on`: where that may be another than the caller knows.
    """

    outputs: Outputs
    batch_size: int
    queue_s: float
    run_s: float
    ran_on: EngineInfo | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """Rows `[N, …]` that run in one batch, and the future of whoever awaits them.

    With `then`, what comes of them is one clip for that network, in whose queue the entry goes on, and `first` what it gave so far.
    """

    engine: Engine
    stage: Stage
    rows: NDArray[np.generic] | Gathered
    deadline: float
    priority: Priority
    future: asyncio.Future[Rows]
    queued: float = field(default_factory=time.monotonic)
    then: Stage | None = None
    first: Rows | None = None

    def goes_on(self, rows: Rows) -> None:
        """To the network that follows, with the features that the one before gave."""
        assert self.then is not None
        self.stage, self.then, self.first = self.then, None, rows
        self.rows = rows.outputs["features"][None]
        self.queued = time.monotonic()

    @property
    def network(self) -> Network:
        return id(self.engine), self.stage

    @property
    def kind(self) -> tuple[int, Stage, tuple[int, ...]]:
        """Entries of one kind can run together: same network, same shape of a row (so clips meet only at equal T)."""
        return id(self.engine), self.stage, self.rows.shape[1:]

    @property
    def load(self) -> int:
        return load(self.stage, self.rows)

    @property
    def work(self) -> int:
        return work(self.stage, self.rows)

    @property
    def array(self) -> NDArray[np.generic]:
        return self.rows.array() if isinstance(self.rows, Gathered) else self.rows


def load(stage: Stage, rows: NDArray[np.generic] | Gathered) -> int:
    """What they take of memory: rows, and of a clip network as many as they have frames."""
    return len(rows) * (rows.shape[1] if stage == "clip" else 1)


def work(stage: Stage, rows: NDArray[np.generic] | Gathered) -> int:
    """What they ask of the device: steps in time, where the network reads time, else rows."""
    return len(rows) * (1 if stage == "encoder" else rows.shape[1])


class Waiting:
    """Entries by priority. Not thread-safe, but for `seconds`."""

    def __init__(self, pace: Pace[Network], *, batch_s: float = BATCH_S) -> None:
        self._pace = pace
        self._batch_s = batch_s
        # Dicts for the order and for leaving from the middle; of each priority first those that go on.
        self._queues: dict[Priority, tuple[dict[Entry, None], dict[Entry, None]]] = {
            "interactive": ({}, {}),
            "bulk": ({}, {}),
        }
        self._work: dict[Priority, Counter[Network]] = {"interactive": Counter(), "bulk": Counter()}
        self._owed_s = 0.0

    def __len__(self) -> int:
        return sum(self.count(priority) for priority in self._queues)

    def __iter__(self) -> Iterator[Entry]:
        return chain(*map(self._of, self._queues))

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._queue(entry)

    def count(self, priority: Priority) -> int:
        return sum(map(len, self._queues[priority]))

    def add(self, entry: Entry) -> None:
        self._queue(entry)[entry] = None
        self._work[entry.priority][entry.network] += entry.work

    def take(self, entry: Entry) -> None:
        """Remove an entry that waits."""
        del self._queue(entry)[entry]
        counts = self._work[entry.priority]
        counts[entry.network] -= entry.work
        if not counts[entry.network]:
            del counts[entry.network]

    def seconds(self, priority: Priority) -> float:
        """What the entries that go before a newcomer of this priority will take."""
        before: tuple[Priority, ...] = ("interactive",) if priority == "interactive" else ("interactive", "bulk")
        return sum(
            self._pace.seconds(network, units) for each in before for network, units in list(self._work[each].items())
        )

    def ran(self, batch: list[Entry], seconds: float) -> None:
        """A batch took `seconds` of the device: see Note [Who goes first]."""
        units = {entry.priority: 0 for entry in batch}
        for entry in batch:
            units[entry.priority] += entry.work
        bulk_s = seconds * units.get("bulk", 0) / sum(units.values())
        if units.keys() | {each for each in PRIORITIES if self.count(each)} != set(PRIORITIES):
            self._owed_s = 0.0  # one of the two is not there, and so the other waits for nobody
            return
        most = max(self._batch_s, self._next_bulk_s() if self.count("bulk") else 0.0)
        earned_s = (seconds - bulk_s) * BULK_SHARE / (1 - BULK_SHARE)
        self._owed_s = min(most, self._owed_s + earned_s - bulk_s)

    def fitting(self) -> tuple[list[Entry], bool]:
        """The batch that would run next, and whether it can grow no more; there must be something."""
        order: tuple[Priority, ...] = ("interactive", "bulk")
        if not self.count("interactive") or self._bulk_is_due():
            order = ("bulk", "interactive")
        first = next(self._of(order[0]))
        batch: list[Entry] = []
        room, units, full = first.engine.info.max_batch, 0, False
        for priority in order:
            for entry in self._of(priority):
                if not room:
                    return batch, True
                if entry.kind != first.kind:
                    continue
                seconds = self._pace.seconds(entry.network, units + entry.work)
                if len(entry.rows) > room or (batch and seconds > self._batch_s):
                    full = True
                    continue
                batch.append(entry)
                room -= len(entry.rows)
                units += entry.work
        return batch, full or not room

    def _bulk_is_due(self) -> bool:
        return self.count("bulk") > 0 and self._owed_s > 0 and self._owed_s >= self._next_bulk_s()

    def _next_bulk_s(self) -> float:
        entry = next(self._of("bulk"))
        return self._pace.seconds(entry.network, entry.work)

    def _queue(self, entry: Entry) -> dict[Entry, None]:
        return self._queues[entry.priority][0 if entry.first is not None else 1]

    def _of(self, priority: Priority) -> Iterator[Entry]:
        return chain(*self._queues[priority])
