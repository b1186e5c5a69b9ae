"""OpenTelemetry traces, with the optional extra `otel`: one span a request, and one for each stage that it went through.

# Note [Told afterwards]
Stages say when they began and ended, in a list that belongs to the request; spans are made of it once the answer is sent. So
nothing but this file knows OpenTelemetry, a stage costs a microsecond, and nothing at all is recorded where traces are off.
The provider is ours and not the process's: frameworks that find a global one add spans of their own, and their overhead.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from service import __version__
from service.errors import ServiceError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

# For the last spans, at the end of the process.
_LAST_S = 3.0
_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


@dataclass(frozen=True, slots=True)
class Stage:
    """Of one request; times in monotonic seconds."""

    name: str
    began: float
    ended: float
    attributes: Mapping[str, Any]


STAGES: ContextVar[list[Stage] | None] = ContextVar("stages", default=None)


def stage(name: str, began: float, ended: float, **attributes: str | float) -> None:
    """Note a stage of the request that is being worked on, if somebody wants to know."""
    stages = STAGES.get()
    if stages is not None:
        stages.append(Stage(name, began, ended, attributes))


def trace_id_of(traceparent: str) -> str | None:
    """The trace that a request says it belongs to, in W3C's form; None where it says none, or nothing valid."""
    match = _PARENT.fullmatch(traceparent)
    if match is None or traceparent.startswith("ff") or not int(match[1], 16) or not int(match[2], 16):
        return None
    return match[1]


class Traces:
    """Sends spans by OTLP over HTTP, in a thread of its own; OpenTelemetry's own variables say where, and which.

    Raises ServiceError where the extra is not installed.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import trace  # noqa: PLC0415
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
        except ImportError as error:
            raise ServiceError(
                f"traces are asked for, and {error.name} is not installed: pip install 'marey[otel]', or set MAREY_TRACES=false"
            ) from None
        # What the environment says of the service (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) goes before what we say.
        found = Resource.create()
        ours = {"service.version": __version__}
        if str(found.attributes["service.name"]).startswith("unknown_service"):
            ours["service.name"] = "marey"
        resource = found.merge(Resource(ours))
        self._provider: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._exporter = OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer: Tracer = self._provider.get_tracer("marey", __version__)
        self._api = trace
        self._extract = TraceContextTextMapPropagator().extract

    def begin(self, name: str, *, parent: Mapping[str, str]) -> Trace:
        """A span for a request that begins now; `parent`: its traceparent and tracestate headers."""
        span = self._tracer.start_span(name, context=self._extract(parent), kind=self._api.SpanKind.SERVER)
        return Trace(self._api, self._tracer, span)

    def close(self) -> None:
        """Send what is left, and end the thread. After some seconds what is left is given up: a stop must not wait for a receiver
        that is gone, which OpenTelemetry would ask again and again.
        """
        giving_up = threading.Timer(_LAST_S, self._exporter.shutdown)
        giving_up.start()
        try:
            self._provider.shutdown()
        finally:
            giving_up.cancel()
            giving_up.join()


class Trace:
    """One request's span, from its beginning to `end`."""

    def __init__(self, api: ModuleType, tracer: Tracer, span: Span) -> None:
        self._api = api
        self._tracer = tracer
        self._span = span
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        # W3C's header for the answer, as the second level of Trace Context has it.
        self.response = f"00-{self.trace_id}-{context.span_id:016x}-{context.trace_flags:02x}"

    @property
    def wanted(self) -> bool:
        """Whether the sampler has chosen it."""
        return self._span.is_recording()

    def end(
        self,
        *,
        name: str,
        stages: list[Stage],
        attributes: Mapping[str, str | float],
        failed: str | None,
    ) -> None:
        """`failed`: what went wrong in the service, as one sentence."""
        context = self._api.set_span_in_context(self._span)
        for each in stages:
            child = self._tracer.start_span(
                each.name, context=context, start_time=self._at(each.began), attributes=dict(each.attributes)
            )
            child.end(self._at(max(each.began, each.ended)))
        self._span.update_name(name)
        self._span.set_attributes(dict(attributes))
        if failed is not None:
            self._span.set_status(self._api.Status(self._api.StatusCode.ERROR, failed))
        self._span.end()

    def _at(self, monotonic_s: float) -> int:
        return self._epoch_ns + round(monotonic_s * 1e9)
