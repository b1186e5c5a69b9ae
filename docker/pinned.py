#!/usr/bin/env python3
"""Refuse an environment that holds a package which constraints.txt does not pin: its version would change by itself.

pinned.py CONSTRAINTS
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions
from pathlib import Path


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def unpinned(constraints: str) -> list[str]:
    """The packages of this interpreter, as `NAME==VERSION`, that have no such line in `constraints`."""
    lines = (line.partition("#")[0].strip().partition("==") for line in constraints.splitlines())
    pins = {(_plain(name), version) for name, equals, version in lines if equals}
    found = {(_plain(each.name), each.version) for each in distributions()}
    return sorted(f"{name}=={version}" for name, version in found - pins)


if __name__ == "__main__":
    if loose := unpinned(Path(sys.argv[1]).read_text(encoding="utf-8")):
        sys.exit(f"error: {', '.join(loose)}: not pinned; add a line for each to {sys.argv[1]}")
