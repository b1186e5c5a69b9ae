#!/opt/marey/bin/python
"""The images' entrypoint: say in one sentence what COMMAND lacks here, or become COMMAND.

    marey-preflight COMMAND [ARGUMENT ...]

Looked at: for `marey serve` the port and, where it is to run on a GPU, the GPU and its engines; for `marey-engines` the GPU and
the folder of engines; for `marey-build` the folder that it works in. Every other command starts at once. Exit code 1 where
something is missing, 127 where there is no such command, else that of COMMAND.
"""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Of NVIDIA's GPUs, Turing was the first with the INT8 instructions that TensorRT's explicit Q/DQ runs on, and TensorRT 11,
# TensorRT-RTX and CUDA 13 know none before it.
OLDEST_GPU = (7, 5)
_PATIENCE_S = 60.0
_ON_CPU = "or serve on the CPU: docker compose up cpu"

Command = list[str]


def _wish(command: Command, name: str, default: str) -> str:
    """What `--name` says in the command, else the variable MAREY_NAME; read anew by the command itself, which judges it."""
    for number, word in enumerate(command):
        flag, equals, value = word.partition("=")
        if flag == f"--{name}":
            return value if equals else "".join(command[number + 1 : number + 2])
    return os.environ.get(f"MAREY_{name.upper()}") or default


def port(command: Command) -> Iterator[str]:
    """That the service can listen. Inside a network of its own a container's port is free; on the host's it may not be."""
    host, number = _wish(command, "host", "127.0.0.1"), _wish(command, "port", "8000")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, int(number), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (ValueError, OverflowError):
        return  # no number: the service says so better
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            yield f"port {number} on {host} is taken; stop what listens there (ss -ltnp), or set MAREY_PORT to another"
        elif error.errno == errno.EACCES:
            yield f"user {os.getuid()} may not listen on port {number}; set MAREY_PORT to 1024 or more"
        else:
            yield f"the service cannot listen on {host}, port {number} ({error.strerror}); correct MAREY_HOST"


def gpu(command: Command) -> Iterator[str]:
    """That TensorRT finds a GPU that it can use, and a driver that is new enough; at most one sentence."""
    if not _on_gpu(command):
        return
    cuda_major = _cuda_of_tensorrt()
    if cuda_major is None:
        yield "this image has no TensorRT; take the one of target gpu, or leave MAREY_ENGINE and MAREY_DEVICES out"
        return
    from service.doctor import gpu as doctor  # noqa: PLC0415  # a third of a second that only GPUs pay
    from service.doctor.child import NoAnswer, ask  # noqa: PLC0415
    from service.nvml import Reading  # noqa: PLC0415

    try:
        cuda = ask(doctor.cuda, timeout_s=_PATIENCE_S)
    except NoAnswer as error:
        cuda = doctor.Cuda(error=str(error))
    try:
        reading = ask(doctor.reading, timeout_s=_PATIENCE_S)
    except NoAnswer as error:
        reading = Reading(reason=f"NVML does not answer: {error}")
    checks = doctor.gpus(reading, cuda=cuda, seen=doctor.seen())
    if missing := next((check for check in checks if check.state == "no" and check.name != "nvml"), None):
        yield f"{missing.says}; {missing.remedy}, {_ON_CPU}"
    elif cuda.version is not None and cuda.version[0] < cuda_major:
        newest = "{}.{}".format(*cuda.version)
        yield (
            f"the driver {reading.driver or 'here'} supports CUDA {newest} at most, and this image's TensorRT is built for "
            f"CUDA {cuda_major}; install NVIDIA's driver {doctor.OLDEST_DRIVER[cuda_major]} or newer on the host, {_ON_CPU}"
        )
    elif (known := [(each.compute_capability, each.name) for each in reading.gpus if each.compute_capability]) and max(
        known
    )[0] < OLDEST_GPU:
        (major, minor), name = max(known)
        yield (
            f"{name} has compute capability {major}.{minor}, and INT8 needs {OLDEST_GPU[0]}.{OLDEST_GPU[1]} (Turing) or newer; "
            f"use another GPU, {_ON_CPU}"
        )


def engines(command: Command) -> Iterator[str]:
    """That there are any, where this image cannot build them."""
    cache = os.environ.get("MAREY_ENGINE_CACHE")
    if cache and _on_gpu(command) and _without_builder() and not any(Path(cache).glob("*/*.plan")):
        yield f"there is no TensorRT engine in {cache}, and this image holds no builder; docker compose run --rm engine"


def engine_cache(_command: Command) -> Iterator[str]:
    if cache := os.environ.get("MAREY_ENGINE_CACHE"):
        yield from _unwritable(Path(cache), "mount a volume there that belongs to this user: chown")


def work(command: Command) -> Iterator[str]:
    if len(command) == 1 or {"-h", "--help", "--version"} & set(command):
        return
    remedy = "run as whom the folder belongs to: BUILD_USER=$(id -u):$(id -g) docker compose run --rm build …, or chown"
    yield from _unwritable(Path.cwd(), remedy)


def fit_threads() -> None:
    """Give the service as many threads as the control group allows processors: more would be stopped for part of each period."""
    from service.doctor.machine import limits  # noqa: PLC0415  # of Marey, and so only where a command of Marey's starts

    allowed = limits().cpus
    if allowed is not None and allowed < len(os.sched_getaffinity(0)):
        os.environ.setdefault("MAREY_THREADS", str(max(1, round(allowed))))
        os.environ.setdefault("MAREY_DECODE_WORKERS", str(min(8, max(1, round(allowed)))))


CHECKS: dict[str, tuple[Callable[[Command], Iterator[str]], ...]] = {
    "marey serve": (port, gpu, engines),
    "marey-engines": (gpu, engine_cache),
    "marey-build": (work,),
}


def main(command: Command) -> int:
    if not command:
        sys.stderr.write("error: no command; marey serve, marey doctor …\n")
        return 2
    name = Path(command[0]).name
    if name == "marey":
        name = " ".join([name, *command[1:2]])
    if missing := [sentence for check in CHECKS.get(name, ()) for sentence in check(command)]:
        sys.stderr.writelines(f"error: {sentence}\n" for sentence in missing)
        return 1
    if name == "marey serve":
        fit_threads()
    try:
        os.execvp(command[0], command)  # noqa: S606  # whoever starts the container says what runs in it
    except OSError as error:
        sys.stderr.write(f"error: {command[0]} cannot be started ({error.strerror}); marey serve, marey doctor …\n")
        return 127


def _on_gpu(command: Command) -> bool:
    engine = _wish(command, "engine", "auto")
    return (
        command[0].endswith("marey-engines")
        or engine == "tensorrt"
        or (engine == "auto" and bool(_wish(command, "devices", "")))
    )


def _cuda_of_tensorrt() -> int | None:
    """The major version of CUDA that the installed TensorRT is built for; None where none is installed."""
    names = (each.name.lower().replace("-", "_") for each in importlib.metadata.distributions())
    found = (re.fullmatch(r"tensorrt(?:_rtx)?_cu(\d+)(?:_libs|_bindings)?", name) for name in names)
    return next((int(match.group(1)) for match in found if match), None)


def _without_builder() -> bool:
    """Whether TensorRT is here, and the resources of its builder are not. TensorRT-RTX has its builder within."""
    spec = importlib.util.find_spec("tensorrt_libs")
    folders = [Path(each) for each in (spec.submodule_search_locations or ())] if spec else []
    resources = [file for folder in folders for file in folder.glob("libnvinfer_builder_resource*")]
    return bool(folders) and not resources


def _unwritable(folder: Path, remedy: str) -> Iterator[str]:
    try:
        # Asking for permission is not enough: it may be mounted read-only, or the disk be full.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".preflight-") as file:
            file.write(os.urandom(4096))
            file.flush()
    except OSError as error:
        yield f"user {os.getuid()} cannot write in {folder} ({error.strerror}); {remedy} {os.getuid()} {folder}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
