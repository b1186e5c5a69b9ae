"""The entrypoint, run: each thing that may be missing is one sentence with its remedy; where nothing is, the command runs."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import pytest

from service.doctor.gpu import OLDEST_DRIVER

ROOT = Path(__file__).parents[2]


def sentence(result) -> str:
    """The one that it said; anything else fails."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


@pytest.fixture
def probe(tmp_path: Path) -> str:
    """A command called `marey`, which prints its arguments and the threads that it is given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "marey"
    command.write_text('#!/bin/sh\necho "$@" "threads=$MAREY_THREADS"\n')
    command.chmod(0o755)
    return str(command)


def test_a_command_gets_its_arguments_and_its_exit_code(script) -> None:
    result = script("preflight.py", sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(7)", "a b", "--c")
    assert (result.returncode, result.stdout) == (7, "['a b', '--c']\n")


def test_a_command_that_is_not_there_is_named(script) -> None:
    result = script("preflight.py", "no-such-command")
    assert result.returncode == 127
    assert result.stderr.startswith("error: no-such-command cannot be started (No such file or directory); marey serve")
    assert script("preflight.py").returncode == 2


def test_on_the_cpu_nothing_but_a_free_port_is_asked_for(script, probe) -> None:
    result = script("preflight.py", probe, "serve", "--host", "127.0.0.1", "--port", "0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("serve --host 127.0.0.1 --port 0")


def test_a_port_that_is_taken_is_told_with_the_remedy(script, probe) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
        by_variable = script("preflight.py", probe, "serve", MAREY_PORT=str(number))
        by_flag = script("preflight.py", probe, "serve", f"--port={number}")
    assert sentence(by_variable) == sentence(by_flag)
    assert f"port {number} on 127.0.0.1 is taken" in sentence(by_flag)
    assert "set MAREY_PORT" in sentence(by_flag)


def test_an_address_of_another_machine_is_told(script, probe) -> None:
    assert "cannot listen on 192.0.2.1" in sentence(script("preflight.py", probe, "serve", MAREY_HOST="192.0.2.1"))


def test_a_value_that_is_no_port_is_left_to_the_service(script, probe) -> None:
    assert script("preflight.py", probe, "serve", MAREY_PORT="soon").returncode == 0


def test_without_a_gpu_the_sentence_says_so_and_how_to_do_without(script, probe) -> None:
    said = sentence(script("preflight.py", probe, "serve", MAREY_ENGINE="tensorrt", MAREY_PORT="0"))
    assert "GPU" in said
    assert said.endswith("docker compose up cpu")
    by_device = script("preflight.py", probe, "serve", "--devices", "0", "--port", "0")
    assert sentence(by_device) == said


def test_a_gpu_is_not_asked_for_where_another_engine_is(script, probe) -> None:
    for engine in ("openvino", "auto"):
        assert script("preflight.py", probe, "serve", "--port", "0", MAREY_ENGINE=engine).returncode == 0


def test_with_a_gpu_the_command_starts(script, probe, gpu_machine) -> None:
    result = script("preflight.py", probe, "serve", "--port", "0", MAREY_ENGINE="tensorrt", **gpu_machine)
    assert result.returncode == 0, result.stderr


def test_a_driver_that_is_too_old_is_told_with_the_one_that_is_needed(script, probe, gpu_machine) -> None:
    environment = {"MAREY_ENGINE": "tensorrt", "STANDIN_DRIVER": "12040", **gpu_machine}
    said = sentence(script("preflight.py", probe, "serve", "--port", "0", **environment))
    assert "supports CUDA 12.4 at most" in said
    assert f"driver {OLDEST_DRIVER[13]} or newer" in said


def test_a_gpu_that_is_too_old_for_int8_is_told(script, probe, gpu_machine) -> None:
    environment = {"MAREY_ENGINE": "tensorrt", "STANDIN_CAPABILITY": "7.0", **gpu_machine}
    said = sentence(script("preflight.py", probe, "serve", "--port", "0", **environment))
    assert "compute capability 7.0, and INT8 needs 7.5" in said


def test_engines_are_asked_for_where_there_is_no_builder(script, probe, gpu_machine, tmp_path: Path) -> None:
    libraries = tmp_path / "site" / "tensorrt_libs"
    libraries.mkdir(parents=True)
    (libraries / "libnvinfer.so.11").touch()
    cache = tmp_path / "engines"
    environment = {**gpu_machine, "MAREY_ENGINE": "tensorrt", "MAREY_ENGINE_CACHE": str(cache)}
    environment["PYTHONPATH"] = os.pathsep.join([str(libraries.parent), gpu_machine["PYTHONPATH"]])
    said = sentence(script("preflight.py", probe, "serve", "--port", "0", **environment))
    assert f"no TensorRT engine in {cache}" in said
    assert "docker compose run --rm engine" in said
    (libraries / "libnvinfer_builder_resource_sm90.so.11").touch()
    assert script("preflight.py", probe, "serve", "--port", "0", **environment).returncode == 0


def test_a_folder_of_engines_that_cannot_be_written_is_told(script, gpu_machine, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    said = sentence(script("preflight.py", "marey-engines", MAREY_ENGINE_CACHE=str(missing), **gpu_machine))
    assert f"cannot write in {missing} (No such file or directory)" in said
    assert f"chown {os.getuid()} {missing}" in said


def test_a_folder_to_work_in_that_cannot_be_written_is_told(script) -> None:
    # /proc takes no files, whoever asks: root, as which tests may run, is not stopped by permissions.
    said = sentence(script("preflight.py", "marey-build", "run", "fight", cwd=Path("/proc")))
    assert "cannot write in /proc" in said
    assert "BUILD_USER=$(id -u):$(id -g)" in said
    # Who only asks for help is not refused.
    asked = script("preflight.py", "marey-build", "--help", cwd=Path("/proc"))
    assert "cannot write" not in asked.stderr


def test_the_oldest_gpu_and_driver_are_the_same_before_and_inside(constraints) -> None:
    outside = (ROOT / "docker" / "preflight.sh").read_text(encoding="utf-8")
    inside = (ROOT / "docker" / "preflight.py").read_text(encoding="utf-8")
    cuda = int(constraints["nvidia-cuda-runtime"].split(".")[0])
    assert f"\nCUDA={cuda}\nOLDEST_DRIVER={OLDEST_DRIVER[cuda]}\n" in outside
    (oldest,) = re.findall(r"^OLDEST_GPU = \((\d+), (\d+)\)$", inside, flags=re.MULTILINE)
    assert f"\nOLDEST_GPU={'.'.join(oldest)}\n" in outside
