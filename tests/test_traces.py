"""Traces of a real server, as a real OTLP receiver gets them."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from service.errors import ServiceError
from service.traces import STAGES, Traces, stage, trace_id_of

pytest.importorskip("opentelemetry.sdk", reason="traces are an extra")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PARENT = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


class Receiver:
    """An OTLP endpoint; `spans` are what has arrived."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self._arrived = threading.Condition()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                receiver.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take(self, request: Any) -> None:
        with self._arrived:
            for of_resource in request.resource_spans:
                self.resources.append({each.key: each.value.string_value for each in of_resource.resource.attributes})
                for of_scope in of_resource.scope_spans:
                    self.spans.extend(of_scope.spans)
            self._arrived.notify_all()

    def of(self, wanted: Callable[[Any], bool]) -> Any:
        """The span that is `wanted`, once it has arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: any(map(wanted, self.spans)), timeout=20)
            return next(span for span in self.spans if wanted(span))

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


@pytest.fixture(scope="module")
def traced(color_bundle: Any, serve: Any, receiver: Receiver) -> Iterator[Any]:
    with serve(
        str(color_bundle.path),
        MAREY_TRACES="true",
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
    ) as running:
        yield running


def picture() -> bytes:
    return cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_a_classification_is_a_span_in_the_callers_trace_with_one_for_each_stage(
    traced: Any, receiver: Receiver
) -> None:
    before = time.time_ns()
    headers = {"traceparent": PARENT, "tracestate": "vendor=1", "x-request-id": "traced-1"}
    response = traced.client.post("/classify/image", files={"file": ("a", picture())}, headers=headers)
    assert response.status_code == 200
    span = receiver.of(lambda each: attributes(each).get("marey.request_id") == "traced-1")
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == ("ab" * 16, "cd" * 8, "vendor=1")
    assert response.headers["traceresponse"] == f"00-{'ab' * 16}-{span.span_id.hex()}-01"
    assert (span.name, span.kind) == ("POST /classify/image", span.SPAN_KIND_SERVER)
    assert before <= span.start_time_unix_nano <= span.end_time_unix_nano <= time.time_ns()
    said = attributes(span)
    assert (said["http.route"], said["http.response.status_code"]) == ("/classify/image", 200)
    assert (said["marey.model"], said["marey.version"], said["marey.batch_size"]) == ("color", "1.0.0", 1)
    assert said["marey.engine"] == response.json()["model"]["engine"]

    stages = [each for each in receiver.spans if each.parent_span_id == span.span_id]
    assert {each.name for each in stages} == {"read", "queue", "decode", "preprocess", "encode", "head"}
    assert {attributes(each)["waits_for"] for each in stages if each.name == "queue"} == {"decoder", "device"}
    for each in stages:
        assert each.trace_id == span.trace_id
        assert each.start_time_unix_nano <= each.end_time_unix_nano
        assert span.start_time_unix_nano - 2e6 <= each.start_time_unix_nano
        assert each.end_time_unix_nano <= span.end_time_unix_nano + 2e6
    lasted = {each.name: (each.end_time_unix_nano - each.start_time_unix_nano) / 1e6 for each in stages}
    stated = response.json()["timings_ms"]
    for name in ("read", "decode", "preprocess"):
        assert lasted[name] == pytest.approx(stated[name], abs=0.5), name
    assert lasted["encode"] >= stated["encode"] - 0.1


def test_a_request_without_a_parent_begins_a_trace_and_a_broken_parent_is_none(traced: Any, receiver: Receiver) -> None:
    for number, parent in enumerate(
        ({}, {"traceparent": "nonsense"}, {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"})
    ):
        name = f"begins-{number}"
        response = traced.client.get("/models", headers={"x-request-id": name, **parent})
        span = receiver.of(lambda each, name=name: attributes(each).get("marey.request_id") == name)  # type: ignore[misc]
        assert span.parent_span_id == b""
        assert response.headers["traceresponse"].split("-")[1] == span.trace_id.hex()


def test_a_caller_that_samples_nothing_gets_no_spans_but_its_trace_id(traced: Any, receiver: Receiver) -> None:
    quiet = "00-" + "ef" * 16 + "-" + "12" * 8 + "-00"
    response = traced.client.get("/models", headers={"traceparent": quiet})
    assert response.headers["traceresponse"].startswith("00-" + "ef" * 16)
    assert response.headers["traceresponse"].endswith("-00")
    traced.client.get("/models", headers={"x-request-id": "after"})
    receiver.of(lambda each: attributes(each).get("marey.request_id") == "after")
    assert not [span for span in receiver.spans if span.trace_id.hex() == "ef" * 16]


def test_refusals_are_spans_too_and_only_the_services_own_faults_are_errors(traced: Any, receiver: Receiver) -> None:
    traced.client.post("/classify/image", files={"file": ("a", b"none")}, headers={"x-request-id": "refused"})
    span = receiver.of(lambda each: attributes(each).get("marey.request_id") == "refused")
    assert (attributes(span)["marey.code"], span.status.code) == ("unsupported_media", 0)
    late = traced.client.post(
        "/classify/image", files={"file": ("a", picture())}, params={"timeout_ms": 1}, headers={"x-request-id": "late"}
    )
    assert late.status_code in (429, 504)
    span = receiver.of(lambda each: attributes(each).get("marey.request_id") == "late")
    assert (span.status.code == span.status.STATUS_CODE_ERROR) == (late.status_code == 504)


def test_probes_leave_no_trace_and_the_service_says_who_it_is(traced: Any, receiver: Receiver) -> None:
    response = traced.client.get("/health/live", headers={"traceparent": PARENT})
    assert "traceresponse" not in response.headers
    traced.client.get("/models", headers={"x-request-id": "who"})
    receiver.of(lambda each: attributes(each).get("marey.request_id") == "who")
    assert not [span for span in receiver.spans if "health" in span.name]
    for resource in receiver.resources:
        assert (resource["service.name"], resource["deployment.environment"]) == ("marey", "test")


def ended(traces: Traces, request_id: str) -> None:
    trace = traces.begin("GET", parent={})
    trace.end(name="GET /models", stages=[], attributes={"marey.request_id": request_id}, failed=None)


def test_what_is_not_sent_yet_is_sent_at_the_end(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "eyes")
    traces = Traces()
    ended(traces, "last")
    assert not [span for span in receiver.spans if attributes(span).get("marey.request_id") == "last"]
    traces.close()
    receiver.of(lambda each: attributes(each).get("marey.request_id") == "last")
    assert "eyes" in {resource["service.name"] for resource in receiver.resources}, "the environment names the service"


def test_a_receiver_that_is_gone_holds_up_neither_requests_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    traces, began = Traces(), time.monotonic()
    for number in range(5000):  # more than are kept
        ended(traces, str(number))
    assert time.monotonic() - began < 10
    began = time.monotonic()
    traces.close()
    assert time.monotonic() - began < 10


def test_without_the_extra_the_service_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ServiceError, match=r"pip install 'marey\[otel\]'"):
        Traces()


def test_nothing_of_it_is_imported_where_traces_are_off() -> None:
    code = (
        "import sys\nfrom service.api.app import create_app\nfrom service.settings import Settings\n"
        "create_app(Settings())\nsys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], timeout=60, check=False)
    assert run.returncode == 0


def test_a_stage_is_noted_only_where_somebody_listens() -> None:
    stage("decode", 1.0, 2.0)
    noted: list[Any] = []
    token = STAGES.set(noted)
    stage("decode", 1.0, 2.0, frames=3)
    STAGES.reset(token)
    assert [(each.name, each.ended - each.began, each.attributes) for each in noted] == [("decode", 1.0, {"frames": 3})]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (PARENT, "ab" * 16),
        ("01-" + "ab" * 16 + "-" + "cd" * 8 + "-01-more", "ab" * 16),
        ("ff-" + "ab" * 16 + "-" + "cd" * 8 + "-01", None),
        ("00-" + "0" * 32 + "-" + "cd" * 8 + "-01", None),
        ("00-" + "ab" * 16 + "-" + "0" * 16 + "-01", None),
        ("00-" + "AB" * 16 + "-" + "cd" * 8 + "-01", None),
        ("00-" + "ab" * 16 + "-" + "cd" * 8, None),
        ("", None),
    ],
)
def test_a_parent_is_read_as_the_w3c_wants_it(header: str, found: str | None) -> None:
    assert trace_id_of(header) == found
