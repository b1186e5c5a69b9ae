"""docker/preflight.sh, run on machines whose docker and nvidia-smi are scripts that answer as those do."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ["sh", "sed", "awk", "cat", "cut", "tail", "head", "sort", "tr", "id", "printenv", "dirname"]
DOCKER = """case "$1" in
  info) echo '{"io.containerd.runc.v2":{},"nvidia":{}} {}';;
  compose) echo "Docker Compose version v2.40.0";;
esac"""
H200 = "590.12.01, 9.0, NVIDIA H200"


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`host(*arguments, programs={name: shell text}, **environment)` runs the script with those programs and no others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))

    def run(*arguments: str, programs: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
        for name, text in programs.items():
            program = folder / name
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            free = listener.getsockname()[1]
        variables = {"PATH": str(folder), "MAREY_PORT": str(free), **environment}
        command = [ROOT / "docker" / "preflight.sh", *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)

    return run


def gpu(line: str) -> dict[str, str]:
    return {"docker": DOCKER, "nvidia-smi": f"echo '{line}'"}


def sentence(result) -> str:
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


def test_nothing_is_missing_on_a_machine_that_has_everything(host) -> None:
    result = host(programs=gpu(H200))
    assert (result.returncode, result.stdout, result.stderr) == (0, "nothing is missing: docker compose up\n", "")


def test_without_a_gpu_the_cpu_service_needs_docker_alone(host) -> None:
    result = host("cpu", programs={"docker": DOCKER})
    assert (result.returncode, result.stdout, result.stderr) == (0, "nothing is missing: docker compose up cpu\n", "")


def test_no_driver_is_told_with_both_ways_out(host) -> None:
    said = sentence(host(programs={"docker": DOCKER}))
    assert "no NVIDIA driver" in said
    assert "docker compose up cpu" in said


@pytest.mark.parametrize("driver", ["550.163.01", "580.64"])
def test_a_driver_that_is_too_old_is_told(host, driver: str) -> None:
    assert f"driver is {driver}, and CUDA 13 needs 580.65" in sentence(host(programs=gpu(f"{driver}, 8.6, NVIDIA A10")))


def test_the_oldest_driver_that_works_is_let_through(host) -> None:
    assert host(programs=gpu("580.65.06, 7.5, Tesla T4")).returncode == 0


def test_a_gpu_that_is_too_old_for_int8_is_told_by_name(host) -> None:
    said = sentence(host(programs=gpu("580.95.05, 7.0, Tesla V100-SXM2-16GB")))
    assert said.startswith("the GPU Tesla V100-SXM2-16GB has compute capability 7.0, and INT8 needs 7.5")


def test_of_several_gpus_one_that_is_new_enough_will_do(host) -> None:
    two = "printf '580.95.05, 7.0, Tesla V100\\n580.95.05, 12.0, NVIDIA RTX 5090\\n'"
    assert host(programs={"docker": DOCKER, "nvidia-smi": two}).returncode == 0


def test_a_toolkit_that_is_not_installed_and_one_that_docker_does_not_know_are_told_apart(host) -> None:
    programs = {**gpu(H200), "docker": DOCKER.replace('"nvidia":{}', '"runc":{}')}
    assert "Toolkit is not installed" in sentence(host(programs=programs))
    assert "Docker does not know" in sentence(host(programs={**programs, "nvidia-ctk": "true"}))
    assert host(programs={**programs, "nvidia-container-runtime-hook": "true"}).returncode == 0


def test_a_daemon_that_does_not_answer_is_told_with_its_own_words(host) -> None:
    down = {"docker": "echo 'Cannot connect to the Docker daemon' >&2; exit 1"}
    assert "does not answer (Cannot connect to the Docker daemon)" in sentence(host("cpu", programs=down))
    without = {"docker": '[ "$1" = info ]'}
    assert "no compose plugin" in sentence(host("cpu", programs=without))


def test_docker_that_is_not_installed_is_told(host) -> None:
    assert "Docker is not installed" in sentence(host("cpu", programs={}))


def test_a_port_that_is_taken_is_told(host) -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((address, 0), family=family) as listener:
            number = listener.getsockname()[1]
            said = sentence(host("cpu", programs={"docker": DOCKER}, MAREY_PORT=str(number)))
        assert said.startswith(f"port {number} is taken")
        assert "MAREY_PORT in .env" in said


def test_a_folder_without_bundles_is_told(host, tmp_path: Path) -> None:
    said = sentence(host("cpu", programs={"docker": DOCKER}, MAREY_BUNDLES=str(tmp_path)))
    assert said.startswith(f"there is no bundle in {tmp_path}")
