"""Was the machine ours while a time was measured? A limit in seconds means nothing on one that others use, or that runs slower than it can."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable

import psutil
import pytest

# Of the machine's time, so much may go to others; of the quickest turn of the loop so far, one may take so many times as long.
_OTHERS, _SLOWER = 0.1, 1.3
_TURNS = 100_000


class Calm:
    """From when it is made: how much of the machine others had (what the host took away included), and how slow it was at both ends.

    `ours`: processes that count as our own, with their children, besides this one and those of it that have ended.
    """

    _quickest_s = float("inf")

    def __init__(self, ours: Iterable[int] = ()) -> None:
        roots = [psutil.Process(pid) for pid in ours]
        self._ours = roots + [child for root in roots for child in root.children(recursive=True)]
        self._slower = _slower()
        self._began = time.monotonic(), _busy(), self._own()

    def disturbed(self) -> str:
        """What kept the machine from us up to now, for people; or nothing."""
        began, busy, own = self._began
        seconds = (time.monotonic() - began) * (psutil.cpu_count() or 1)
        others = ((_busy() - busy) - (self._own() - own)) / seconds
        slower = max(self._slower, _slower())
        said = f"others had {others:.0%} of the machine, and it ran {slower:.2f} times as long as it can"
        return said if others > _OTHERS or slower > _SLOWER else ""

    def _own(self) -> float:
        here = psutil.Process().cpu_times()
        spent = here.user + here.system + here.children_user + here.children_system
        for process in self._ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent += times.user + times.system
        return float(spent)


def fairly(attempt: Callable[[], str], *, tries: int = 3, ours: Iterable[int] = ()) -> None:
    """Call `attempt`, which returns what it missed, until that is nothing. Skips where it was disturbed every time, and fails where it was not once."""
    missed, disturbed = [], []
    for _ in range(tries):
        machine = Calm(ours)
        if not (found := attempt()):
            return
        (disturbed if (others := machine.disturbed()) else missed).append(f"{found}; {others}")
    if missed:
        pytest.fail("\n".join(missed))
    pytest.skip("never undisturbed: " + "; ".join(disturbed))


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "iowait", "steal")))


def _slower() -> float:
    """A fixed loop against the quickest turn of it that this process has seen."""
    spent = []
    for _ in range(5):
        began = time.perf_counter()
        for _turn in range(_TURNS):
            pass
        spent.append(time.perf_counter() - began)
    Calm._quickest_s = min(Calm._quickest_s, *spent)
    return sorted(spent)[2] / Calm._quickest_s
