"""What is built is what works: an installed wheel finds the bundles that ship with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = out.glob("*.whl")
    return built


def test_an_installed_wheel_serves_the_shipped_bundles(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import service; from service.bundle.store import find_bundles, open_bundle;"
        "print(service.__file__); [print(open_bundle(path).manifest.name) for path in find_bundles(())]"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    where, *names = result.stdout.split()
    assert Path(where).is_relative_to(tmp_path)
    assert names == ["fight", "imagenet"]


def test_the_wheel_holds_the_recipes_and_both_commands(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert {"models/recipes/fight.toml", "models/recipes/imagenet.toml"} <= set(names)
    assert "marey = service.cli:main" in entry_points
    assert "marey-build = models.cli:main" in entry_points
    assert not [name for name in names if name.startswith("tests/")]
