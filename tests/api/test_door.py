"""The door by itself: who is refused before anything behind it is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.admission import Admission
from service.api.door import Door
from service.pace import Line
from service.priority import Priority


class Behind:
    """What stands behind the door, and what went out."""

    def __init__(self, *, device: dict[Priority, Line]) -> None:
        self.asked: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self.admission = Admission(
            max_requests=2,
            max_rows=100,
            max_bytes=100,
            max_wait_s=0.1,
            device=lambda priority: device[priority],
            decoders=lambda _priority: Line(0.3),
        )
        self._door = Door(self._app, admission=self.admission)

    async def ask(self, path: str, *, method: str = "POST", query: bytes = b"", **headers: str) -> int:
        """The status that the door answered with; 0 where it let the request through."""
        self.sent.clear()
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query,
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
            "state": {"request_id": "a"},
        }
        await self._door(scope, self._receive, self._send)
        self.route = getattr(scope.get("route"), "path", None)
        return int(self.sent[0]["status"]) if self.sent else 0

    async def _app(self, scope: Any, _receive: Any, _send: Any) -> None:
        self.asked.append(scope["path"])

    async def _receive(self) -> dict[str, Any]:
        raise AssertionError("the door reads no body")

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.fixture
def behind() -> Behind:
    return Behind(device={"interactive": Line(), "bulk": Line(2.0)})


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/classify/image", "/classify/image"),
        ("/classify/video", "/classify/video"),
        ("/jobs", "/jobs"),
        ("/v2/models/fight/infer", "/v2/models/{name}/infer"),
        ("/v2/models/fight/versions/1/infer", "/v2/models/{name}/versions/{version}/infer"),
    ],
)
async def test_where_there_is_no_place_nothing_behind_the_door_is_asked(behind: Behind, path: str, route: str) -> None:
    for _ in range(2):
        behind.admission.requests += 1
    assert await behind.ask(path) == 429
    assert behind.asked == []
    assert behind.route == route
    headers = dict(behind.sent[0]["headers"])
    assert headers[b"content-type"] == b"application/problem+json"
    assert int(headers[b"retry-after"]) >= 1
    assert json.loads(behind.sent[1]["body"])["code"] == "overloaded"


async def test_what_takes_no_upload_is_let_through(behind: Behind) -> None:
    behind.admission.requests = 2
    for path, method in (("/health/ready", "GET"), ("/classify/image", "GET"), ("/v2/repository/index", "POST")):
        assert await behind.ask(path, method=method) == 0
    assert len(behind.asked) == 3


async def test_each_priority_is_asked_about_its_own_line(behind: Behind) -> None:
    assert await behind.ask("/classify/image") == 429, "300 ms of decoding"
    assert await behind.ask("/classify/image", query=b"priority=bulk&top_k=1") == 0
    assert await behind.ask("/classify/image", query=b"priority=bulk&timeout_ms=1000") == 429
    assert await behind.ask("/classify/image", query=b"priority=bulk", x_timeout_ms="1000") == 429
    assert await behind.ask("/classify/image", query=b"priority=bulk&timeout_ms=5000", x_timeout_ms="1000") == 0
    assert await behind.ask("/classify/image", query=b"priority=bulk&timeout_ms=soon") == 0, (
        "the route says what is wrong"
    )


async def test_tensors_do_not_wait_for_the_decoders_nor_jobs_for_anybody(behind: Behind) -> None:
    assert await behind.ask("/v2/models/fight/infer") == 0
    assert await behind.ask("/jobs") == 0
