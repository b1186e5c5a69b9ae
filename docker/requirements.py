#!/usr/bin/env python3
"""What pyproject.toml asks for, a requirement a line: its dependencies, or those of the extras that are named.

requirements.py PYPROJECT [EXTRA ...]
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    """An extra that names another of the same project, as `marey[offline]`, stands for what that one asks for."""
    if not extras:
        yield from project["dependencies"]
    for extra in extras:
        for wanted in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", wanted)
            yield from requirements(project, own.group(1).split(",")) if own else [wanted]


if __name__ == "__main__":
    table = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
    sys.stdout.write("".join(f"{line}\n" for line in requirements(table, sys.argv[2:])))
