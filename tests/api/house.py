"""A service in this process whose device waits at a gate, and requests to it whose clients can hang up."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from service.api.state import State


def form(content: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + content + b"\r\n--b--\r\n"


@dataclass
class Call:
    """One request to an application in this process, whose client can hang up."""

    app: Any
    path: str
    body: bytes
    query: str = ""
    method: str = "POST"
    sent: list[dict[str, Any]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> asyncio.Task[None]:
        self._bodies = [{"type": "http.request", "body": self.body, "more_body": False}]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query.encode(),
            "root_path": "",
            "scheme": "http",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "headers": [
                (b"host", b"127.0.0.1"),
                (b"content-type", b"multipart/form-data; boundary=b"),
                (b"content-length", str(len(self.body)).encode()),
            ],
        }
        return asyncio.create_task(self.app(scope, self._receive, self._send))

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(b"".join(each.get("body", b"") for each in self.sent[1:])))

    async def _receive(self) -> dict[str, Any]:
        if self._bodies:
            return self._bodies.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


@dataclass
class House:
    """A service in this process, and a gate that its device waits at."""

    app: Any
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def state(self) -> State:
        found: State = self.app.state.marey
        return found

    def call(self, body: bytes, *, query: str = "") -> Call:
        return Call(self.app, "/classify/image", form(body), query)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """The device does something else meanwhile."""
        (batcher,) = {replica.batcher for model in self.state.registry.models for replica in model.replicas}
        holding = asyncio.create_task(batcher.call(lambda: self.gate.wait(20)))
        await asyncio.sleep(0)
        try:
            yield
        finally:
            self.gate.set()
            await holding

    def counted(self, sample: str) -> float:
        lines = self.state.telemetry.render().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample + " ")), 0.0)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  # of three threads
                await asyncio.sleep(0.001)
