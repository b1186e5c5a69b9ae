"""`marey serve --ray` where it cannot serve: one sentence, soon, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from service.bundle.store import Bundle
from tests.conftest import ROOT

SOON_S = 40


def marey(*arguments: str | Path, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{code}\nimport sys; from service.cli import main; sys.argv[1:] = {list(map(str, arguments))!r}; main()"
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=SOON_S, check=False, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


def refused(*arguments: str | Path, exit_code: int = 1, code: str = "", **environment: str) -> str:
    done = marey(*arguments, code=code, **environment)
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("command", [("serve", "--ray"), ("classify-archive", ".", "--out", "x.parquet")])
def test_without_ray_it_is_said_how_it_is_installed(command: tuple[str, ...]) -> None:
    told = refused(*command, code="import sys; sys.modules['ray'] = None")
    assert "needs Ray, which is not installed: pip install 'marey[scale]'" in told


def test_flags_of_ray_need_ray(color_bundle: Bundle) -> None:
    assert "--engine-gpus is for Ray's replicas; add --ray" in refused(
        "serve", color_bundle.path, "--engine-gpus", "0.5", exit_code=2
    )
    assert "--engines = '3:1'" in refused("serve", color_bundle.path, "--ray", "--engines", "3:1", exit_code=2)


def test_nothing_starts_where_it_could_not_serve(color_bundle: Bundle, tmp_path: Path) -> None:
    assert "no bundle can be served" in refused("serve", "--ray", tmp_path / "nothing")
    assert "MAREY_WATCH_S" in refused("serve", "--ray", color_bundle.path, MAREY_WATCH_S="5")
    assert "keys" in refused("serve", "--ray", color_bundle.path, MAREY_KEYS=str(tmp_path / "no-keys"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert f"127.0.0.1:{port} cannot be listened on" in refused("serve", "--ray", color_bundle.path, "--port", port)


def test_a_cluster_that_is_not_there_is_said_soon(color_bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told = refused("serve", "--ray", color_bundle.path, "--port", "0", RAY_ADDRESS=f"127.0.0.1:{port}")
    assert f"nobody listens at 127.0.0.1:{port}" in told


def test_a_share_of_a_gpu_that_is_not_there_is_refused(color_bundle: Bundle) -> None:
    told = refused("serve", "--ray", color_bundle.path, "--port", "0", "--engine-gpus", "0.5", CUDA_VISIBLE_DEVICES="")
    assert "MAREY_RAY_ENGINE_GPUS" in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_stopped_while_it_starts(color_bundle: Bundle, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "service", "serve", "--ray", color_bundle.path, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        until = time.monotonic() + SOON_S
        while not any("ServeController" in "".join(each.cmdline()) for each in _family(process.pid)):
            assert time.monotonic() < until
            time.sleep(0.1)
        family = _family(process.pid)
        process.send_signal(number)
        _, told = process.communicate(timeout=SOON_S)
    assert process.returncode == 0, told
    assert "Traceback" not in told
    _, left = psutil.wait_procs(family, timeout=SOON_S)
    assert not left


def _family(pid: int) -> list[psutil.Process]:
    found = []
    for each in psutil.Process(pid).children(recursive=True):
        try:
            each.cmdline()
        except psutil.Error:
            continue
        found.append(each)
    return found
