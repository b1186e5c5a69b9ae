"""Processor time and memory of processes, by Linux's /proc: what a service spends is read from outside, while it works."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def main_thread_s(pid: int) -> float:
    """Processor seconds of the thread that the process began with: in `marey serve` the event loop. Steps of 10 ms."""
    return _spent(_PROC / str(pid) / "task" / str(pid) / "stat")


def process_s(pid: int) -> float:
    """Processor seconds of all threads, those that have ended included."""
    return _spent(_PROC / str(pid) / "stat")


def family_s(pid: int) -> float:
    """Processor seconds of the children of `pid`, those that it has waited for included."""
    fields = _fields(_PROC / str(pid) / "stat")
    return (int(fields[13]) + int(fields[14])) / _TICKS + sum(process_s(child) for child in children(pid))


def children(pid: int) -> tuple[int, ...]:
    """Process ids of those whose parent is `pid`."""
    numbers = [entry.name for entry in _PROC.iterdir() if entry.name.isdigit()]
    parents = {int(number): _fields(_PROC / number / "stat", gone_is_empty=True)[1:2] for number in numbers}
    return tuple(sorted(child for child, parent in parents.items() if parent == [str(pid)]))


def memory_bytes(pid: int) -> int:
    """Proportional set size: a page that several processes share counts in parts for each. 0 for a process that has ended."""
    try:
        told = (_PROC / str(pid) / "smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", told, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def _spent(stat: Path) -> float:
    fields = _fields(stat)
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _fields(stat: Path, *, gone_is_empty: bool = False) -> list[str]:
    """Those after the name, which may hold blanks and brackets: the first is proc(5)'s field 3."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if gone_is_empty:
            return []
        raise
