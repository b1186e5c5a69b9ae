"""`marey doctor` as a user runs it, and a folder of packages that are broken in a way of one's choice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def marey() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`marey("doctor", "--json", path=folder, **environment)`: `path` goes before everything that is installed."""

    def run(*arguments: str, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("MAREY_")}
        variables["PYTHONPATH"] = os.pathsep.join(map(str, [*([path] if path else []), ROOT]))
        return subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            env=variables | environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return run


@pytest.fixture
def broken(tmp_path: Path) -> Callable[..., Path]:
    """`broken(pycuda="raise ImportError('…')", …)` → a folder with these packages, their `driver` modules empty."""

    def make(**packages: str) -> Path:
        for name, code in packages.items():
            (tmp_path / "broken" / name).mkdir(parents=True)
            (tmp_path / "broken" / name / "__init__.py").write_text(code)
            (tmp_path / "broken" / name / "driver.py").write_text("")
        return tmp_path / "broken"

    return make
