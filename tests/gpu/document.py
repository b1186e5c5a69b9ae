"""The results of one run on one GPU, as they are kept in tests/gpu/results."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.bench.machine import this_machine
from tests.gpu import ledger
from tests.gpu.steps import Done

ROOT = Path(__file__).parents[2]


class Document:
    """Written anew after every step, so that a run which is cut off leaves what it has found."""

    def __init__(self, folder: Path, *, identity: Mapping[str, str | None], lines: Path) -> None:
        now = dt.datetime.now(dt.UTC)
        parts = (
            identity.get("gpu") or "no GPU",
            identity.get("flavour") or "no TensorRT",
            identity.get("version") or "",
        )
        stem = "-".join(filter(None, (now.date().isoformat(), *map(_slug, parts))))
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.log = folder / f"{stem}.json", folder / f"{stem}.log"
        self._lines = lines
        self._about = {
            "schema_version": 1,
            "date": now.isoformat(timespec="seconds"),
            **identity,
            "driver": _driver(),
            "command": shlex.join(["python", "-m", "tests.gpu", *sys.argv[1:]]),
            "commit": _commit(),
            "tree": _tree(),
            "machine": this_machine().model_dump(),
        }

    def write(self, steps: Sequence[Done], reports: Mapping[str, Any]) -> dict[str, Any]:
        """`reports`: what commands wrote themselves, by step. Returns what was written."""
        tests, figures = self._found()
        content = {
            **self._about,
            "passed": all(done.outcome == "passed" for done in steps),
            "verdicts": [each["verdict"] for each in figures.values() if "verdict" in each],
            "steps": [done.record for done in steps],
            "tests": tests,
            "figures": figures,
            "reports": dict(reports),
        }
        staging = self.file.with_name(f".{self.file.name}")
        staging.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        staging.rename(self.file)
        return content

    def _found(self) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
        """The last word on each test, failures before passes, and its figures."""
        tests: dict[str, dict[str, Any]] = {}
        figures: dict[str, dict[str, Any]] = {}
        for line in ledger.read(self._lines):
            name = line["test"]
            if line.pop("kind") == "figures":
                figures.setdefault(name, {}).update(line["figures"])
            elif tests.get(name, {}).get("outcome") != "failed":
                tests[name] = {key: value for key, value in line.items() if value != ""}
        return list(tests.values()), figures


def _commit() -> str | None:
    """Of the checkout, or MAREY_COMMIT where only its files were carried here; `+` where files differ from it."""
    if given := os.environ.get("MAREY_COMMIT"):
        return given
    try:
        asked = [["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]]
        head, changed = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _tree() -> str:
    """One hash over the sources that ran: it tells whether two runs were of the same code, with or without git."""
    digest = hashlib.sha256()
    for file in sorted(file for part in ("service", "models", "tests/gpu") for file in (ROOT / part).rglob("*.py")):
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.splitlines()[0].strip() if asked.stdout.strip() else None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
