"""The health check, run against a server that answers as the service does, and against the service itself."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import serving

Answers = dict[str, tuple[int, dict[str, str]]]
READY = {"/health/ready": (200, {"status": "ready"}), "/health/live": (200, {"status": "live"})}
LOADING = {**READY, "/health/ready": (503, {"detail": "the models are still being loaded; retry in a moment"})}
DEAD = dict.fromkeys(READY, (503, {"detail": "the device thread or the decoders have ended; restart the service"}))


@pytest.fixture
def service() -> Iterator[Callable[[Answers], str]]:
    """`service(answers)` → the port of a server that gives those."""
    servers = []

    def start(answers: Answers) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers[self.path]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *arguments: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return str(server.server_address[1])

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:  # fmt: skip
        started.stdout.readline()
        yield started
        started.kill()


def test_a_ready_service_is_healthy_and_nothing_is_said(script, service) -> None:
    result = script("health.py", MAREY_PORT=service(READY), MAREY_HOST="0.0.0.0")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_service_itself_is_found_healthy(script, color_bundle) -> None:
    with serving(str(color_bundle.path)) as served:
        assert script("health.py", MAREY_PORT=served.url.rpartition(":")[2]).returncode == 0


def test_a_service_that_is_not_ready_gives_its_reason(script, service) -> None:
    result = script("health.py", MAREY_PORT=service(LOADING))
    assert (result.returncode, result.stdout) == (1, "503: the models are still being loaded; retry in a moment\n")


def test_where_nothing_listens_it_is_unhealthy(script) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    result = script("health.py", "--end-if-dead", "1", MAREY_PORT=str(free))
    assert result.returncode == 1
    assert "Connection refused" in result.stdout


def test_a_dead_service_is_asked_to_stop_and_a_loading_one_is_not(script, service, process) -> None:
    script("health.py", "--end-if-dead", str(process.pid), MAREY_PORT=service(LOADING))
    assert process.poll() is None
    dead = service(DEAD)
    script("health.py", MAREY_PORT=dead)
    assert process.poll() is None
    result = script("health.py", "--end-if-dead", str(process.pid), MAREY_PORT=dead)
    assert result.returncode == 1
    assert "started anew" in result.stdout
    assert process.wait(10) == -15
