"""Logs as machines and people read them, from a real server; and no key in them, at any level, in any form."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service import keys
from service.logs import REQUEST, JsonFormatter, TextFormatter, without_secrets

ROOT = Path(__file__).parents[1]


@contextmanager
def logging_server(*arguments: str, **environment: str) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """The URL of a `marey serve`, and a function that stops it and gives every line that it wrote, to stdout or stderr."""
    command = [sys.executable, "-m", "service", "serve", "--port", "0", *arguments]
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables)
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if "marey is ready" in line:
                ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()

    def stop() -> list[str]:
        process.terminate()
        assert process.wait(timeout=30) == 0
        reader.join()
        return lines

    try:
        assert ready.wait(60)
        url = next(match[0] for line in lines if (match := re.search(r"http://[0-9.:]+", line)))
        yield url, stop
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def record(text: str, *args: object, **more: Any) -> logging.LogRecord:
    return logging.LogRecord("here", logging.INFO, __file__, 1, text, args, more.pop("exc_info", None), **more)


def test_a_line_is_one_object_with_what_is_known_of_the_request() -> None:
    token = REQUEST.set({"request_id": "r1", "client": "camera-1", "trace_id": "t1", "code": "ok"})
    try:
        event = record("said %s\nin two lines", "this")
        event.fields = {"status": 200}
        line = JsonFormatter().format(event)
    finally:
        REQUEST.reset(token)
    assert "\n" not in line
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", found.pop("time"))
    assert found == {
        "level": "info",
        "logger": "here",
        "message": "said this\nin two lines",
        "request_id": "r1",
        "client": "camera-1",
        "trace_id": "t1",
        "status": 200,
    }


def test_an_exception_stands_inside_its_line_and_what_json_cannot_hold_is_text() -> None:
    try:
        int("Grüße")
    except ValueError:
        event = record("it failed", exc_info=sys.exc_info())
        event.fields = {"path": Path("/x")}
        line = JsonFormatter().format(event)
    assert "\n" not in line
    assert json.loads(line)["exception"].startswith("Traceback (most recent call last):")
    assert json.loads(line)["exception"].endswith("'Grüße'")
    assert json.loads(line)["path"] == "/x"


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
@pytest.mark.parametrize(
    "text",
    [
        "the key {} came",
        "< Authorization: Bearer {}",
        '"authorization": "Bearer {}"',
        "Sec-WebSocket-Protocol: marey, marey.key.{}",
        "Authorization: Basic {}",
        "GET /x?key={}&y=1",
    ],
)
def test_keys_never_reach_a_log(tmp_path: Path, formatter: logging.Formatter, text: str) -> None:
    token = keys.add(tmp_path / "keys", "a")
    assert token not in formatter.format(record(text.format(token)))
    assert token not in formatter.format(record("%s", text.format(token)))
    assert "camera-1 asks" in formatter.format(record("camera-1 asks")), "and nothing else is taken out"


def test_a_secret_of_another_kind_is_taken_out_where_it_is_sent_as_one() -> None:
    assert without_secrets("> authorization: Bearer s3cr3t x") == "> authorization: [secret]"
    assert "s3cr3t" not in without_secrets('{"m": "Authorization: Basic s3cr3t"}')
    assert "s3cr3t" not in without_secrets("Sec-WebSocket-Protocol: marey.key.s3cr3t, marey")
    assert json.loads(without_secrets(json.dumps({"m": 'a "Bearer s3cr3t" b'}))) == {"m": 'a "Bearer [secret]" b'}


def test_every_line_of_a_server_is_json_and_says_who_asked_for_what_and_how_it_went(
    color_bundle: Any, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    token = keys.add(path, "camera-1")
    variables = {"MAREY_KEYS": str(path), "MAREY_LOG_FORMAT": "json", "MAREY_LOG_LEVEL": "info"}
    with logging_server(str(color_bundle.path), **variables) as (url, stop), httpx.Client(base_url=url) as client:
        trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
        headers = {"authorization": f"Bearer {token}", "traceparent": trace, "x-request-id": "mine-1"}
        picture = {"file": ("a", b"no picture")}
        assert client.post("/classify/image", files=picture, headers=headers).status_code == 415
        assert client.post("/classify/image", files=picture).status_code == 401
        assert client.get("/models", headers=headers).status_code == 200
        lines = [json.loads(line) for line in stop()]
    assert not [line for line in lines if line["level"] not in ("debug", "info")]
    asked = [line for line in lines if line["logger"] == "service.api.observe"]
    assert [(line["route"], line["status"], line["code"]) for line in asked] == [
        ("/classify/image", 415, "unsupported_media"),
        ("/classify/image", 401, "missing_key"),
        ("/models", 200, "ok"),
    ]
    first, second, _ = asked
    assert (first["request_id"], first["client"], first["trace_id"]) == ("mine-1", "camera-1", "ab" * 16)
    assert first["method"] == "POST"
    assert first["ms"] > 0
    assert second["client"] == "anonymous"
    assert "trace_id" not in second
    assert any(line["message"].startswith("marey is ready") for line in lines)
    assert any(line["logger"] == "uvicorn.error" for line in lines), "uvicorn's lines are of the same form"


def test_an_answer_says_how_long_each_stage_took_and_the_log_which_model_it_was(
    color_bundle: Any, tmp_path: Path
) -> None:
    picture = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    with (
        logging_server(str(color_bundle.path), MAREY_LOG_FORMAT="json", MAREY_HOST="0.0.0.0") as (url, stop),
        httpx.Client(base_url=url) as client,
    ):
        answer = client.post("/classify/image", files={"file": ("a", picture)})
        timing = dict(re.findall(r"(\w+);dur=([0-9.]+)", answer.headers["server-timing"]))
        stated = answer.json()["timings_ms"]
        lines = [json.loads(line) for line in stop()]
    assert list(timing) == ["read", "decode", "preprocess", "queue", "encode", "head", "total"]
    assert {name: float(text) for name, text in timing.items()} == pytest.approx(stated, abs=0.01)
    assert [line["level"] for line in lines if "MAREY_KEYS" in line["message"]] == ["warning"], (
        "it is open to everybody"
    )
    (line,) = [line for line in lines if line.get("route") == "/classify/image"]
    assert (line["model"], line["version"], line["precision"], line["batch_size"]) == ("color", "1.0.0", "fp32", 1)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_key_is_in_the_log_of_a_server_that_logs_all_it_can(color_bundle: Any, tmp_path: Path, form: str) -> None:
    path = tmp_path / "keys"
    token, foreign = keys.add(path, "camera-1"), "s3cr3t-of-another-service"
    variables = {
        "MAREY_KEYS": str(path),
        "MAREY_LOG_FORMAT": form,
        "MAREY_LOG_LEVEL": "debug",
        "MAREY_ALLOW_URLS": "true",
    }
    with logging_server(str(color_bundle.path), **variables) as (url, stop), httpx.Client(base_url=url) as client:
        for given in (f"Bearer {token}", f"Bearer {token}x", f"Bearer {foreign}", f"Basic {foreign}", foreign):
            client.get("/models", headers={"authorization": given})
            client.post("/classify/image", headers={"authorization": given}, params={"key": token})
        headers = {"authorization": f"Bearer {token}"}
        for target in (f"http://user:{foreign}@example.org/", f"http://127.0.0.1/{foreign}?sig={foreign}"):
            refused = client.post("/classify/image", json={"url": target}, headers=headers)
            assert refused.json()["code"] == "url_refused"
            assert foreign not in refused.text
        stream = url.replace("http", "ws") + "/classify/stream"
        with connect(stream, additional_headers={"Authorization": f"Bearer {token}"}):
            pass
        with connect(stream, subprotocols=["marey", f"marey.key.{token}"]):  # type: ignore[list-item]
            pass
        with pytest.raises(InvalidStatus):
            connect(stream, additional_headers={"Authorization": f"Bearer {foreign}"})
        lines = stop()
    log = "\n".join(lines)
    assert token not in log
    assert foreign not in log
    assert "/classify/stream" in log
    assert log.count("camera-1") >= 3
