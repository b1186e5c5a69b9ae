"""A service of our own for the time of a measurement: a process of its own on a free port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.bench.load import Address
from service.errors import MareyError

_STOP_S = 40


@dataclass(frozen=True, slots=True)
class Hosted:
    """Where it listens, and its process."""

    address: Address
    pid: int


@contextmanager
def hosted(bundle: Path, *, options: tuple[str, ...], threads: int) -> Iterator[Hosted]:
    """`marey serve BUNDLE …`, ready; stopped in the end. Raises MareyError with what it said where it does not start."""
    command = [sys.executable, "-m", "service", "serve", str(bundle), "--port", "0", *options]
    # It finds this very package, wherever it is run from.
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": paths, "MAREY_LOG_LEVEL": "error"}
    variables["MAREY_THREADS"] = str(threads)
    # A closed loop waits for its answers: what is measured is how many there are, and not who would have been refused.
    variables["MAREY_QUEUE_MS"] = "60000"
    variables["MAREY_MAX_JOBS"] = "0"  # those in the folder are another service's to work on
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=variables)  # noqa: S603  # our own
        try:
            assert process.stdout is not None
            where = re.search(r"http://\S+", process.stdout.readline())
            ready = process.stdout.readline()
            if where is None or not ready.startswith("marey is ready"):
                process.wait(_STOP_S)
                complaints.seek(0)
                said = complaints.read().strip().splitlines() or ["nothing"]
                raise MareyError(f"the service did not start: {said[-1].removeprefix('error: ')}")
            yield Hosted(Address.parse(where.group()), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
