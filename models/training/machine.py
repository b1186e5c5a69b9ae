"""The machine that trained: a time says nothing without it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path


def machine(*, gpus: Sequence[str] = ()) -> str:
    """Cores that this process may use, their model, and `gpus` by name, as `2 of 8 cores, Intel Xeon …, no GPU`."""
    usable, present = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    cores = f"{usable} of {present} cores" if usable < present else f"{present} core{'s' if present > 1 else ''}"
    return f"{cores}, {_cpu()}, {', '.join(gpus) if gpus else 'no GPU'}"


def _cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
