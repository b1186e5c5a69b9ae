"""What a request says beside its body, and where its time goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from fastapi import Request

from service.api.v2.inference import MAX_TIMEOUT_MS
from service.errors import InvalidParameter, Malformed
from service.priority import Priority
from service.traces import stage

_PRIORITIES: dict[str, Priority] = {"interactive": "interactive", "bulk": "bulk"}


@dataclass(frozen=True, slots=True)
class Watch:
    """Seconds of one request, by what they were spent on."""

    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self.began

    def note(self, name: str) -> None:
        """What passed since the last note was spent on `name`."""
        before = sum(self.seconds.values())
        self.seconds[name] = self.passed_s - before
        if name != "run":  # whose stages note themselves
            stage(name, self.began + before, self.began + before + self.seconds[name])


@dataclass(frozen=True, slots=True)
class Asking:
    """What is said beside the body, and so known before it is read.

    Read by hand: FastAPI takes as long to read four parameters as all else in the event loop takes for a frame.
    """

    name: str
    version: str | None
    header_bytes: int | None
    timeout_s: float | None
    priority: Priority

    @classmethod
    def of(cls, request: Request) -> Asking:
        """Raises InvalidParameter or Malformed."""
        path, query, headers = request.path_params, request.query_params, request.headers
        timeout_ms = query.get("timeout_ms", headers.get("x-timeout-ms"))
        priority = query.get("priority", "interactive")
        if priority not in _PRIORITIES:
            raise InvalidParameter(f"priority = {priority[:40]!r}; ask for {' or '.join(_PRIORITIES)}")
        if timeout_ms is not None and not (_is_count(timeout_ms) and 1 <= int(timeout_ms) <= MAX_TIMEOUT_MS):
            raise InvalidParameter(f"timeout_ms = {timeout_ms[:40]!r}; send milliseconds from 1 to {MAX_TIMEOUT_MS}")
        length = headers.get("inference-header-content-length")
        if length is not None and not _is_count(length):
            raise Malformed(f"Inference-Header-Content-Length is {length[:40]!r}; send the number of bytes of JSON")
        return cls(
            path["name"],
            path.get("version"),
            None if length is None else int(length),
            None if timeout_ms is None else int(timeout_ms) / 1000,
            _PRIORITIES[priority],
        )


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16
