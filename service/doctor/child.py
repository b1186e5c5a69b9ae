"""A question that may crash or hang whoever asks it, asked by a process of its own."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")

# What a library prints must not mix with the answer; and how it falls apart at exit, after that, is nobody's concern.
_PROGRAM = """
import os, pickle, sys
answer = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
sys.path[:] = pickle.load(sys.stdin.buffer)
try:
    result = True, pickle.load(sys.stdin.buffer)()
except Exception as error:
    told = str(error).strip().splitlines()
    known = any(each.__name__ == "MareyError" for each in type(error).__mro__)
    result = False, told[0] if known and told else f"{type(error).__name__}: {told[0] if told else 'no reason given'}"
answer.write(pickle.dumps(result))
answer.flush()
os._exit(0)
"""


class NoAnswer(Exception):
    """The question was not answered; the message is a clause that says what happened instead."""


def ask(question: Callable[[], T], *, timeout_s: float) -> T:
    """`question()`, in a fresh interpreter that finds its modules where this one does; raises NoAnswer.

    The question and its answer are pickled: a function of a module, or a `partial` of one, and values.
    """
    try:
        child = subprocess.run(  # noqa: S603  # our own program, no shell
            [sys.executable, "-c", _PROGRAM],
            input=pickle.dumps(sys.path) + pickle.dumps(question),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"it did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise NoAnswer(f"no process could be started ({error})") from error
    if not child.stdout:
        raise NoAnswer(_epitaph(child.returncode, child.stderr))
    good, answer = pickle.loads(child.stdout)  # noqa: S301  # from our own program
    if not good:
        raise NoAnswer(str(answer))
    return cast("T", answer)


def _epitaph(code: int, stderr: bytes) -> str:
    said = stderr.decode(errors="replace").strip().splitlines()
    because = f": {said[-1]}" if said else ""
    if code < 0:
        try:
            return f"it crashed ({signal.Signals(-code).name}){because}"
        except ValueError:
            return f"it was ended by signal {-code}{because}"
    return f"it ended with exit code {code}{because}"
