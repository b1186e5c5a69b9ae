"""Commands one after the other, each with a time limit of its own: one that fails or hangs does not stop the next."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

Outcome = Literal["passed", "failed", "timed out", "not run"]


@dataclass(frozen=True, slots=True)
class Step:
    """`limit_s`: after so many seconds the command and all that it started are ended."""

    name: str
    command: tuple[str, ...]
    limit_s: float


@dataclass(frozen=True, slots=True)
class Done:
    """What a step came to. `said`: all that it printed, or why it was not run."""

    step: Step
    outcome: Outcome
    exit_code: int | None
    seconds: float
    said: str

    @property
    def record(self) -> dict[str, Any]:
        """As it stands in the results; what was printed is in the log."""
        return {
            "step": self.step.name,
            "command": shlex.join(self.step.command),
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 1),
        }


def python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, *arguments)


def pytest(name: str) -> tuple[str, ...]:
    """One file of tests in a process of its own: what takes the driver down takes no other test with it."""
    return python(
        "-m", "pytest", f"tests/gpu/test_{name}.py", "-q", "--tb=short", "--show-capture=stdout", "-p", "no:cacheprovider"
    )  # fmt: skip


def run(step: Step, *, cwd: Path, environment: Mapping[str, str], left_s: float, log: IO[str]) -> Done:
    """Run it for its limit or for the time that is left, whichever is less; what it prints goes to `log` and to the terminal."""
    limit = min(step.limit_s, left_s)
    if limit <= 1:
        return Done(step, "not run", None, 0.0, "no time was left")
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            step.command,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Done(step, "not run", None, 0.0, str(error))
    lines: list[str] = []
    reader = threading.Thread(target=_copy, args=(process.stdout, lines, log))
    reader.start()
    late = False
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        _end(process)
        reader.join()
    code = process.returncode
    outcome: Outcome = "timed out" if late else "passed" if code == 0 else "failed"
    return Done(step, outcome, code, time.monotonic() - began, "".join(lines))


def _copy(stream: IO[str], lines: list[str], log: IO[str]) -> None:
    with stream:
        for line in stream:
            lines.append(line)
            log.write(line)
            log.flush()
            sys.stdout.write(line)
            sys.stdout.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """The command, if it still runs, and whatever it left running: a server would keep the GPU's memory."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
