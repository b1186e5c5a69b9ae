"""`POST /v2/models/NAME/infer`: tensors in, tensors out."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from functools import partial

from fastapi import APIRouter, Request, Response

from service.admission import Ticket
from service.api.presence import Presence
from service.api.state import state_of
from service.api.v2.answer import SMALL, Written, compressed, refuse_unless_sayable, write
from service.api.v2.asking import Asking, Watch
from service.api.v2.body import read_body
from service.api.v2.inference import Inference, read
from service.api.v2.named import leased
from service.api.v2.network import Network, Ran
from service.api.v2.schemas import PROBLEMS, asking
from service.api.v2.statistics import Statistics
from service.engine.base import EngineInfo
from service.errors import DeadlineExceeded
from service.predictor import Predictor

router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=PROBLEMS)

# More than this is read in a thread: JSON takes its time, and floats that do not lie well in the body are copied.
_JSON_HERE, _BYTES_HERE = 2**16, 2**22
# A smaller answer is not worth compressing.
_WORTH_COMPRESSING = 2**10
# Clips of one request whose classes are counted: enough to see a drift, and no longer than a batch.
_COUNTED = 64


@router.post("/models/{name}/infer", openapi_extra=asking(), response_class=Response)
@router.post("/models/{name}/versions/{version}/infer", openapi_extra=asking("version"), response_class=Response)
async def infer(request: Request) -> Response:
    """Run NAME, NAME.encoder or NAME.head over one tensor; see GET /v2/models/NAME for what goes in and comes out."""
    state, watch, said = state_of(request), Watch(), Asking.of(request)
    limit_s = said.timeout_s or state.settings.timeout_ms / 1000
    with state.admission.enter(priority=said.priority, deadline_s=limit_s, decodes=False) as ticket:
        async with leased(state.registry, said.name, said.version, deadline=watch.began + limit_s) as (model, network):
            try:
                done = await _infer(request, said, watch, ticket=ticket, model=model, network=network)
            except BaseException:
                statistics_of(request).failed(network, seconds=watch.passed_s)
                raise
            _count(request, network, done, watch)
    answer, headers = done.answer, {}
    if answer.header_bytes is not None:
        headers["Inference-Header-Content-Length"] = str(answer.header_bytes)
    if done.coding:
        headers["Content-Encoding"] = done.coding
    kind = "application/json" if answer.header_bytes is None else "application/octet-stream"
    return Response(answer.body, media_type=kind, headers=headers)


@dataclass(frozen=True, slots=True)
class _Done:
    """`answer` is compressed as `coding` says, if at all."""

    inference: Inference
    info: EngineInfo
    ran: Ran
    answer: Written
    coding: str


async def _infer(
    request: Request, said: Asking, watch: Watch, *, ticket: Ticket, model: Predictor, network: Network
) -> _Done:
    """Read the body, run the network and write the answer, all before the deadline; past it whatever still waits is withdrawn."""
    settings = state_of(request).settings
    limit_s = said.timeout_s or settings.timeout_ms / 1000
    try:
        async with asyncio.timeout(limit_s - watch.passed_s) as clock:
            body = await read_body(request, max_bytes=settings.max_upload_bytes, hold=ticket.hold)
            watch.note("read")
            async with Presence(request.receive):
                inference = await _read(body, said.header_bytes, network, settings.max_queued_rows)
                watch.note("input")
                limit_s = inference.timeout_s or limit_s
                clock.reschedule(asyncio.get_running_loop().time() + limit_s - watch.passed_s)
                shapes = network.answers(inference.tensor.shape)
                refuse_unless_sayable(shapes, inference.outputs)
                answered = sum(math.prod(shape) for shape in shapes.values())
                copied = inference.tensor.nbytes if said.header_bytes is None else 0  # else it lies in the body
                ticket.hold(copied + 4 * answered)
                ticket.queue(inference.rows)
                asked = model.asked(deadline=watch.began + limit_s, priority=inference.priority or said.priority)
                ran = await network.run(asked, inference.tensor)
                watch.note("run")
                info = asked.info
                written = partial(_write, network, inference, info, ran)
                answer = written() if answered <= SMALL else await asyncio.to_thread(written)
                coding = _coding(request, answer)
                if coding:
                    packed = await asyncio.to_thread(compressed, answer.body, coding)
                    answer = replace(answer, body=packed)
                watch.note("output")
    except TimeoutError:
        raise _too_late(limit_s) from None
    if watch.passed_s > limit_s:  # the loop was busy when it passed
        raise _too_late(limit_s)
    return _Done(inference, info, ran, answer, coding)


def _too_late(limit_s: float) -> DeadlineExceeded:
    limit = f"{limit_s * 1e3:g} ms" if limit_s >= 1e-3 else f"{limit_s * 1e6:.0f} µs"
    return DeadlineExceeded(f"no answer within {limit}; raise timeout_ms, or the parameter timeout, or send fewer rows")


def statistics_of(request: Request) -> Statistics:
    found: Statistics = request.app.state.statistics
    return found


async def _read(body: bytearray, header_bytes: int | None, network: Network, max_rows: int) -> Inference:
    in_words = len(body) if header_bytes is None else min(header_bytes, len(body))
    if in_words <= _JSON_HERE and len(body) <= _BYTES_HERE:
        return read(body, header_bytes=header_bytes, network=network, max_rows=max_rows)
    return await asyncio.to_thread(read, body, header_bytes=header_bytes, network=network, max_rows=max_rows)


def _write(network: Network, inference: Inference, info: EngineInfo, ran: Ran) -> Written:
    head = {
        "model_name": network.name,
        "model_version": network.manifest.version,
        **({} if inference.id is None else {"id": inference.id}),
        "parameters": {
            "engine": info.name,
            "precision": info.precision,
            "float_precision": info.float_precision,
            **({} if info.head_engine is None else {"head_engine": info.head_engine}),
            "device": info.device,
            "batch_size": ran.batch_size,
        },
    }
    return write(ran.outputs, inference.outputs, head=head, labels=network.manifest.labels)


def _coding(request: Request, answer: Written) -> str:
    """Where a client accepts one coding and no other it asks for it.

    Libraries accept several without being asked; what tensors gain by it is less than it costs.
    """
    accepted = request.headers.get("accept-encoding", "").strip().lower()
    return accepted if accepted in ("gzip", "deflate") and len(answer.body) >= _WORTH_COMPRESSING else ""


def _count(request: Request, network: Network, done: _Done, watch: Watch) -> None:
    """For statistics, metrics, log and trace."""
    state, ran, info, name, version = (
        state_of(request),
        done.ran,
        done.info,
        network.manifest.name,
        network.manifest.version,
    )
    seconds = {**watch.seconds, "total": watch.passed_s}
    statistics_of(request).succeeded(
        network, ran, rows=done.inference.rows, inferences=len(done.inference.tensor), timings_s=seconds
    )
    timings = {
        "read": seconds["read"] + seconds["input"],
        "queue": ran.queue_s,
        "encode": ran.run_s.get("encoder", ran.run_s.get("clip", 0.0)),
        "head": ran.run_s.get("head", 0.0),
        "total": seconds["total"],
    }
    request.state.timings = {stage: value * 1000 for stage, value in timings.items()}
    state.telemetry.stages(name, request.state.timings)
    if network.part is None:
        for row in ran.outputs["probabilities"][:_COUNTED]:
            top = int(row.argmax())
            state.telemetry.answered(
                name, version, class_id=top, label=network.manifest.labels[top], probability=float(row[top])
            )
    request.state.answered_by = {
        "model": network.name,
        "version": version,
        "engine": info.name,
        "precision": info.precision,
        "batch_size": ran.batch_size,
    }
