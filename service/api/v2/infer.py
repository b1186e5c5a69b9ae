"""`POST /v2/models/NAME/infer`: tensors in, tensors out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from service.api.presence import Presence
from service.api.state import state_of
from service.api.v2.answer import SMALL, Written, compressed, numbers_in, write
from service.api.v2.body import read_body
from service.api.v2.inference import Inference, read
from service.api.v2.named import leased
from service.api.v2.network import Network, Ran
from service.api.v2.schemas import BODY, PROBLEMS
from service.api.v2.statistics import Statistics
from service.engine.base import EngineInfo
from service.errors import DeadlineExceeded, Malformed
from service.priority import Priority

router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=PROBLEMS)

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


@router.post("/models/{name}/infer", openapi_extra=BODY, response_class=Response)
@router.post("/models/{name}/versions/{version}/infer", openapi_extra=BODY, response_class=Response)
async def infer(
    request: Request,
    *,
    name: str,
    version: str | None = None,
    timeout_ms: Annotated[int | None, Query(ge=1, le=600_000, description="As parameters.timeout, in ms")] = None,
    x_timeout_ms: Annotated[
        int | None, Header(ge=1, le=600_000, description="As timeout_ms, which goes before it")
    ] = None,
    priority: Annotated[Priority, Query(description="As parameters.priority: 1, or 2 for bulk")] = "interactive",
    inference_header_content_length: Annotated[
        str | None, Header(description="Bytes of JSON before the tensors; 0: the body is one tensor")
    ] = None,
) -> Response:
    """Run NAME, NAME.encoder or NAME.head over one tensor; see GET /v2/models/NAME for what goes in and comes out."""
    state, watch = state_of(request), _Watch()
    header_bytes = _length(inference_header_content_length)
    limit_s = (timeout_ms or x_timeout_ms or state.settings.timeout_ms) / 1000
    deadline = watch.began + limit_s
    with state.admission.enter(priority=priority, deadline_s=limit_s, decodes=False) as ticket:
        async with leased(state.registry, name, version, deadline=deadline) as (model, network):
            try:
                async with asyncio.timeout(limit_s) as clock:
                    body = await read_body(request, max_bytes=state.settings.max_upload_bytes, hold=ticket.hold)
                    watch.note("read")
                    async with Presence(request.receive):
                        inference = await _read(body, header_bytes, network, state.settings.max_queued_rows)
                        watch.note("input")
                        limit_s = inference.timeout_s or limit_s
                        clock.reschedule(asyncio.get_running_loop().time() + limit_s - watch.passed_s)
                        ticket.queue(inference.rows)
                        asked = model.asked(deadline=watch.began + limit_s, priority=inference.priority or priority)
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


def _length(said: str | None) -> int | None:
    if said is not None and not (said.isascii() and said.isdigit() and len(said) < 16):
        raise Malformed(f"Inference-Header-Content-Length is {said[:40]!r}; send the number of bytes of JSON")
    return None if said is None else int(said)


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
