#!/usr/bin/env python3
"""What pyproject.toml asks for, a requirement a line: its dependencies, or those of the extras that are named.

requirements.py PYPROJECT [EXTRA ...]
requirements.py PYPROJECT --with EXTRAS     the dependencies and those of EXTRAS, which have commas between them, or are empty
"""

from __future__ import annotations

import argparse
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


def main(pyproject: Path, *, extras: list[str], besides: str | None) -> str:
    """Raises SystemExit where there is no such extra: pip would only warn, and an image would lack what was asked for."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    added = [name.strip() for name in (besides or "").split(",") if name.strip()]
    known = project["optional-dependencies"]
    if unknown := [name for name in extras + added if name not in known]:
        raise SystemExit(f"error: {', '.join(unknown)}: no extra of {pyproject}; it has {', '.join(sorted(known))}")
    lines = list(requirements(project, extras)) + (list(requirements(project, added)) if added else [])
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="requirements.py")
    parser.add_argument("pyproject", type=Path)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("extras", nargs="*", default=[], metavar="EXTRA")
    wanted.add_argument("--with", dest="besides", metavar="EXTRAS")
    given = parser.parse_args()
    sys.stdout.write(main(given.pyproject, extras=given.extras, besides=given.besides))
