"""Who comes in: by places, rows and bytes, and by how long the work ahead takes.

# Note [Asked twice]
A request is asked about when its header has come, because a refusal must cost nothing; and again when its body is there,
because only then does it take a place in the line: whoever dawdles over an upload must not keep others out.

# Note [Nothing waits]
What is under way cannot be given back, and what would run next has to be there before the device is free. So while nothing
waits a request is taken, however long the work under way: no limit on waiting may leave the device idle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from service.errors import Overloaded
from service.pace import Line
from service.priority import Priority

# Why somebody was refused, as the metrics count it.
Reason = Literal["requests", "rows", "bytes", "wait"]

_RECENT = 0.1
# What is known of the work ahead are means: measured at three times the capacity, 99 of 100 requests were answered in time only
# where those stayed this far below what a request may wait.
_SPREAD = 1.45


class Admission:
    """The limits of one service, and what is taken of them. Belongs to the event loop.

    `device` and `decoders` tell the line before a request of a priority, `device` that of the least busy of `devices`; `ready` raises while nobody is taken in; `refused`
    is told the reason of each refusal.
    """

    def __init__(
        self,
        *,
        max_requests: int,
        max_rows: int,
        max_bytes: int,
        max_wait_s: float,
        device: Callable[[Priority], Line],
        decoders: Callable[[Priority], Line],
        devices: Callable[[], int] = lambda: 1,
        ready: Callable[[], None] = lambda: None,
        refused: Callable[[Reason], None] = lambda _reason: None,
    ) -> None:
        self._max_requests = max_requests
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_wait_s = max_wait_s
        self._device = device
        self._decoders = decoders
        self._devices = devices
        self._ready = ready
        self._refused = refused
        # In whole microseconds: sums of floats would not come back to nothing.
        self._reserved_us: dict[Priority, int] = {"interactive": 0, "bulk": 0}
        self._stay_s = 0.0
        self.requests = 0
        self.rows = 0
        self.bytes = 0

    def enter(
        self, *, priority: Priority = "interactive", deadline_s: float = math.inf, decodes: bool = True
    ) -> Ticket:
        """A place for a request whose body is not read yet, to be closed. `deadline_s`: how long it may take in all.

        `decodes` False: it brings what the device reads. Raises Overloaded, NotReady or Draining.
        """
        self.check(priority=priority, deadline_s=deadline_s, decodes=decodes)
        self.requests += 1
        return Ticket(self, priority=priority, deadline_s=deadline_s, decodes=decodes)

    def check(self, *, priority: Priority = "interactive", deadline_s: float = math.inf, decodes: bool = True) -> None:
        """Raise as `enter` would."""
        self._ready()
        if self.requests >= self._max_requests:
            raise self._refusal(
                "requests",
                f"{self.requests} requests are in progress, the limit is {self._max_requests}; "
                "retry later, or raise MAREY_MAX_REQUESTS",
                self._until_free(self.requests - self._max_requests + 1, self.requests),
            )
        self.check_wait(priority=priority, deadline_s=deadline_s, decodes=decodes)

    def check_wait(self, *, priority: Priority, deadline_s: float, decodes: bool) -> None:
        """Raise Overloaded where the line is too long for a request that has `deadline_s` left."""
        wait_s = self.wait_s(priority, decodes=decodes) * _SPREAD
        own = priority == "bulk" or deadline_s < self._max_wait_s
        limit_s = max(0.0, deadline_s) if own else self._max_wait_s
        if wait_s <= limit_s:
            return
        remedy = "allow more by timeout_ms" if own else "ask with priority=bulk, or raise MAREY_QUEUE_MS"
        raise self._refusal(
            "wait",
            f"the work ahead takes up to {wait_s * 1000:.0f} ms, and this request may wait for "
            f"{limit_s * 1000:.0f} ms; retry later, {remedy}",
            wait_s - limit_s,
        )

    def wait_s(self, priority: Priority, *, decodes: bool = True) -> float:
        """How long a request that came now would wait for its turn; 0 while nothing waits (Note [Nothing waits])."""
        device = self._device(priority)
        decoders = self._decoders(priority) if decodes else Line()
        reserved_us = sum(self._reserved_us.values()) if priority == "bulk" else self._reserved_us["interactive"]
        waiting_s = device.waiting_s + decoders.waiting_s + reserved_us / 1e6 / self._devices()
        return waiting_s + device.running_s + decoders.running_s if waiting_s > 0 else 0.0

    @property
    def wait_limit_s(self) -> float:
        """The `wait_s` above which a request is refused that is interactive and has time enough."""
        return self._max_wait_s / _SPREAD

    def add(self, *, priority: Priority, rows: int, held: int, microseconds: int) -> None:
        """Take `rows` and `held` bytes, and a place of `microseconds` in the line; a ticket's business."""
        self.rows += rows
        self.bytes += held
        self._reserved_us[priority] += microseconds

    def refuse_rows(self, rows: int) -> None:
        """Raise Overloaded where `rows` more would be too many beside those of others."""
        if self.rows and self.rows + rows > self._max_rows:
            raise self._refusal(
                "rows",
                f"requests in progress have {self.rows} frames, this one has {rows}, the limit is {self._max_rows}; "
                "retry later, or raise MAREY_MAX_QUEUED_ROWS",
                self._until_free(self.rows + rows - self._max_rows, self.rows),
            )

    def refuse_bytes(self, count: int, *, own: int) -> None:
        """Raise Overloaded where `count` more bytes would be too many, beside those of others than the one that holds `own`."""
        if self.bytes > own and self.bytes + count > self._max_bytes:
            raise self._refusal(
                "bytes",
                f"requests in progress hold {self.bytes} bytes, this one needs {count} more, the limit is "
                f"{self._max_bytes}; retry later, or raise MAREY_MAX_QUEUED_BYTES",
                self._until_free(self.bytes + count - self._max_bytes, self.bytes),
            )

    def leave(self, *, stayed_s: float) -> None:
        """A request has ended, after `stayed_s`."""
        self.requests -= 1
        self._stay_s += _RECENT * (stayed_s - self._stay_s) if self._stay_s else stayed_s

    def _refusal(self, reason: Reason, sentence: str, retry_after_s: float) -> Overloaded:
        self._refused(reason)
        return Overloaded(sentence, retry_after_s=max(1.0, retry_after_s))

    def _until_free(self, wanted: float, taken: float) -> float:
        """Until `wanted` of what is `taken` is given back: requests stay `_stay_s`, and leave evenly."""
        return self._stay_s * min(1.0, wanted / taken)


class Ticket:
    """One request's part of the limits, from `Admission.enter` to `close`."""

    def __init__(self, admission: Admission, *, priority: Priority, deadline_s: float, decodes: bool) -> None:
        self._admission = admission
        self._priority: Priority = priority
        self._decodes = decodes
        self._entered = time.monotonic()
        self._deadline = self._entered + deadline_s
        self._rows = self._bytes = self._microseconds = 0
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def hold(self, count: int) -> None:
        """Count `count` more bytes as held in memory. Raises Overloaded where others hold some and it is too much together."""
        self._admission.refuse_bytes(count, own=self._bytes)
        self._take(held=count)

    def queue(self, rows: int, *, seconds: float = 0.0) -> None:
        """Take a place in the line for `rows` frames, once the body is there; they will take the device about `seconds`.

        Raises Overloaded where the line has become too long, or where others have rows and it is too many together.
        """
        left_s = self._deadline - time.monotonic()
        self._admission.check_wait(priority=self._priority, deadline_s=left_s, decodes=self._decodes)
        self._admission.refuse_rows(rows)
        self._take(rows=rows, microseconds=round(seconds * 1e6))

    def decoded(self) -> None:
        """Its rows wait for the device from now on, and are counted there."""
        self._take(microseconds=-self._microseconds)

    def close(self) -> None:
        """Give everything back. A second time does nothing."""
        if not self._closed:
            self._closed = True
            self._take(rows=-self._rows, held=-self._bytes, microseconds=-self._microseconds)
            self._admission.leave(stayed_s=time.monotonic() - self._entered)

    def _take(self, *, rows: int = 0, held: int = 0, microseconds: int = 0) -> None:
        self._rows += rows
        self._bytes += held
        self._microseconds += microseconds
        self._admission.add(priority=self._priority, rows=rows, held=held, microseconds=microseconds)
