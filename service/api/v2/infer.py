"""`POST /v2/models/NAME/infer`: tensors in, tensors out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from functools import partial

from fastapi import APIRouter, Request, Response

from service.api.presence import Presence
from service.api.state import state_of
from service.api.v2.answer import SMALL, Written, compressed, numbers_in, write
from service.api.v2.body import read_body
from service.api.v2.inference import MAX_TIMEOUT_MS, Inference, read
from service.api.v2.named import leased
from service.api.v2.network import Network, Ran
from service.api.v2.schemas import PROBLEMS, asking
from service.api.v2.statistics import Statistics
from service.engine.base import EngineInfo
from service.errors import DeadlineExceeded, InvalidParameter, Malformed
from service.priority import Priority

router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=PROBLEMS)

_PRIORITIES: dict[str, Priority] = {"interactive": "interactive", "bulk": "bulk"}
# More JSON than this is read in a thread, and a smaller answer is not worth compressing.
_JSON_HERE = 2**16
_WORTH_COMPRESSING = 2**10


@dataclass(frozen=True, slots=True)
class _Watch:
    """Seconds of one request, by what they were spent on."""

    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self.began

    def note(self, name: str) -> None:
        """What passed since the last note was spent on `name`."""
        self.seconds[name] = self.passed_s - sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class _Asking:
    """What is said beside the body, and so known before it is read.

    Read by hand: FastAPI takes as long to read four parameters as all else in the event loop takes for a frame.
    """

    name: str
    version: str | None
    header_bytes: int | None
    timeout_s: float | None
    priority: Priority

    @classmethod
    def of(cls, request: Request) -> _Asking:
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


@router.post("/models/{name}/infer", openapi_extra=asking(), response_class=Response)
@router.post("/models/{name}/versions/{version}/infer", openapi_extra=asking("version"), response_class=Response)
async def infer(request: Request) -> Response:
    """Run NAME, NAME.encoder or NAME.head over one tensor; see GET /v2/models/NAME for what goes in and comes out."""
    state, watch, said = state_of(request), _Watch(), _Asking.of(request)
    limit_s = said.timeout_s or state.settings.timeout_ms / 1000
    deadline = watch.began + limit_s
    with state.admission.enter(priority=said.priority, deadline_s=limit_s, decodes=False) as ticket:
        async with leased(state.registry, said.name, said.version, deadline=deadline) as (model, network):
            try:
                async with asyncio.timeout(limit_s) as clock:
                    body = await read_body(request, max_bytes=state.settings.max_upload_bytes, hold=ticket.hold)
                    watch.note("read")
                    async with Presence(request.receive):
                        inference = await _read(body, said.header_bytes, network, state.settings.max_queued_rows)
                        watch.note("input")
                        limit_s = inference.timeout_s or limit_s
                        clock.reschedule(asyncio.get_running_loop().time() + limit_s - watch.passed_s)
                        ticket.queue(inference.rows)
                        asked = model.asked(
                            deadline=watch.began + limit_s, priority=inference.priority or said.priority
                        )
                        ran = await network.run(asked, inference.tensor)
                        watch.note("run")
                        written, coding = await _write(
                            network,
                            asked.replica.engine.info,
                            inference,
                            ran,
                            request.headers.get("accept-encoding", ""),
                        )
                        watch.note("output")
            except BaseException as error:
                statistics_of(request).failed(network, seconds=watch.passed_s)
                if isinstance(error, TimeoutError):
                    raise DeadlineExceeded(
                        f"no answer within {limit_s * 1000:g} ms; raise timeout_ms, or the parameter timeout, or send fewer rows"
                    ) from None
                raise
            _count(request, network, inference, ran, watch)
    headers = {} if written.header_bytes is None else {"Inference-Header-Content-Length": str(written.header_bytes)}
    if coding:
        headers["Content-Encoding"] = coding
    kind = "application/json" if written.header_bytes is None else "application/octet-stream"
    return Response(written.body, media_type=kind, headers=headers)


def statistics_of(request: Request) -> Statistics:
    found: Statistics = request.app.state.statistics
    return found


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16


async def _read(body: bytearray, header_bytes: int | None, network: Network, max_rows: int) -> Inference:
    in_words = len(body) if header_bytes is None else min(header_bytes, len(body))
    if in_words <= _JSON_HERE:
        return read(body, header_bytes=header_bytes, network=network, max_rows=max_rows)
    return await asyncio.to_thread(read, body, header_bytes=header_bytes, network=network, max_rows=max_rows)


async def _write(
    network: Network, info: EngineInfo, inference: Inference, ran: Ran, accepted: str
) -> tuple[Written, str]:
    """The answer, and how it is compressed: where a client accepts one coding and no other it asks for it.

    Libraries accept several without being asked; what tensors gain by it is less than it costs.
    """
    head = {
        "model_name": network.name,
        "model_version": network.manifest.version,
        **({} if inference.id is None else {"id": inference.id}),
        "parameters": {
            "engine": info.name,
            "precision": info.precision,
            "float_precision": info.float_precision,
            "device": info.device,
            "batch_size": ran.batch_size,
        },
    }
    written = partial(write, ran.outputs, inference.outputs, head=head, labels=network.manifest.labels)
    small = numbers_in(ran.outputs, inference.outputs) <= SMALL
    answer = written() if small else await asyncio.to_thread(written)
    coding = accepted.strip().lower()
    if coding not in ("gzip", "deflate") or len(answer.body) < _WORTH_COMPRESSING:
        return answer, ""
    return replace(answer, body=await asyncio.to_thread(compressed, answer.body, coding)), coding


def _count(request: Request, network: Network, inference: Inference, ran: Ran, watch: _Watch) -> None:
    seconds = {**watch.seconds, "total": watch.passed_s}
    statistics_of(request).succeeded(
        network, ran, rows=inference.rows, inferences=len(inference.tensor), timings_s=seconds
    )
    timings = {"read": seconds["read"], "queue": ran.queue_s, "total": seconds["total"]}
    timings |= {"encode": ran.run_s.get("encoder", ran.run_s.get("clip", 0.0)), "head": ran.run_s.get("head", 0.0)}
    state_of(request).telemetry.stages(network.manifest.name, {stage: value * 1000 for stage, value in timings.items()})
