"""Prometheus's programs: those of this machine, else Debian's, unpacked without being installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """`program("promtool")` → its path; the test is skipped where there is none and Debian's package cannot be had."""
    folder = tmp_path_factory.mktemp("prometheus")
    reasons: list[str] = []

    def fetch() -> None:
        for command in (["apt-get", "download", "prometheus"], ["sh", "-c", "dpkg-deb -x prometheus_*.deb ."]):
            try:
                subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=120)
            except subprocess.CalledProcessError as error:
                reasons.append(f"`{' '.join(command)}` said {error.stderr.strip()!r}")
                return
            except (OSError, subprocess.TimeoutExpired) as error:
                reasons.append(str(error))
                return

    def find(name: str) -> str:
        unpacked: Path = folder / "usr" / "bin" / name
        found = shutil.which(name)
        if found is None and not unpacked.is_file() and not reasons:
            fetch()
        if found is None and not unpacked.is_file():
            pytest.skip(f"{name} is not installed, and could not be fetched: {'; '.join(reasons)}")
        return found or str(unpacked)

    return find
