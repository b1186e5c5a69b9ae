"""What a GPU run found, one JSON object a line, written at once: a driver that takes the process down loses no line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VARIABLE = "MAREY_GPU_LEDGER"


def write(kind: str, **fields: Any) -> None:
    """Append a line to the file that the environment names; without one nothing is kept."""
    if file := os.environ.get(VARIABLE):
        with Path(file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"kind": kind, **fields}, default=str) + "\n")


def read(file: Path) -> Iterator[dict[str, Any]]:
    """Every whole line; what a killed process left half written is passed over."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue
