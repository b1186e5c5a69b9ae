"""One batch under way: rows of several callers as the engine takes them, and each caller's own share of what it gives."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from service.engine.base import Engine, Outputs, Overlapping
from service.engine.buckets import buckets_for
from service.errors import EngineError
from service.waiting import Entry, Rows


@dataclass(slots=True, eq=False)
class Flight:
    """Entries of one kind that run together. With `begin` an overlapping engine has them under way until `land`."""

    members: list[Entry]
    began: float = field(default_factory=time.monotonic)
    _finish: Callable[[], Outputs] | None = None

    @property
    def rows(self) -> int:
        return sum(len(entry.rows) for entry in self.members)

    @property
    def load(self) -> int:
        return sum(entry.load for entry in self.members)

    @property
    def work(self) -> int:
        return sum(entry.work for entry in self.members)

    def begin(self) -> None:
        """Send the rows to an engine that works on its own. Raises what it raises."""
        first, blocks = self.members[0], [entry.array for entry in self.members]
        rows = sum(len(block) for block in blocks)
        bucket = rows if first.stage == "head" else next(buckets_for(rows))[2]
        assert isinstance(first.engine, Overlapping)
        self._finish = first.engine.begin(first.stage, blocks, bucket=bucket)

    def land(self) -> list[Rows]:
        """Wait for the results, or run what was not begun: the rows of each member. Raises what the engine raises."""
        outputs = (self._finish or partial(_run, self.members))()
        for name, array in outputs.items():
            if len(array) != self.rows:
                raise _miscounted(self.members[0].engine, name, len(array), self.rows)
        shares, start, run_s = [], 0, time.monotonic() - self.began
        for entry in self.members:
            stop = start + len(entry.rows)
            share = {name: array[start:stop] for name, array in outputs.items()}
            shares.append(Rows(share, self.rows, self.began - entry.queued, run_s))
            start = stop
        return shares


def can_overlap(members: list[Entry]) -> bool:
    """Whether the engine takes the batch as one, while another is under way."""
    engine, stage, rows = members[0].engine, members[0].stage, sum(len(entry.rows) for entry in members)
    return isinstance(engine, Overlapping) and (stage == "head" or len(list(buckets_for(rows))) == 1)


def _run(members: list[Entry]) -> Outputs:
    """What frames enter sees only batch sizes that were warmed; the head takes its batch as it is."""
    engine, stage = members[0].engine, members[0].stage
    rows = np.concatenate([entry.array for entry in members]) if len(members) > 1 else members[0].array
    if stage == "head" or isinstance(engine, Overlapping):  # which cuts and pads by itself
        return engine.run(stage, rows)
    parts = []
    for start, count, bucket in buckets_for(len(rows)):
        chunk = rows[start : start + count]
        if bucket > count:
            chunk = np.concatenate([chunk, np.zeros((bucket - count, *rows.shape[1:]), rows.dtype)])
        outputs = engine.run(stage, chunk)
        for name, array in outputs.items():
            if len(array) != bucket:
                raise _miscounted(engine, name, len(array), bucket)
        parts.append({name: array[:count] for name, array in outputs.items()})
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _miscounted(engine: Engine, name: str, given: int, wanted: int) -> EngineError:
    return EngineError(f"{engine.info.name} gave {given} rows of {name} for {wanted} rows of input")
