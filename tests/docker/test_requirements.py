"""What the images install is what pyproject asks for, and nothing that the constraints do not pin."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(
    ("extras", "wanted"),
    [
        ([], PROJECT["dependencies"]),
        (["gpu"], PROJECT["optional-dependencies"]["gpu"]),
        (["build-cpu"], [*PROJECT["optional-dependencies"]["offline"], "tensorflow-cpu>=2.21"]),
        (["--with", ""], PROJECT["dependencies"]),
        (["--with", "otel"], [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["otel"]]),
    ],
)
def test_an_extra_stands_for_what_it_names(script, extras: list[str], wanted: list[str]) -> None:
    result = script("requirements.py", str(ROOT / "pyproject.toml"), *extras)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == wanted


def test_several_extras_are_installed_beside_the_dependencies_each_requirement_once(script) -> None:
    result = script("requirements.py", str(ROOT / "pyproject.toml"), "--with", "otel, gpu,gpu-rtx,")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(set(lines))
    assert set(lines) == {
        *PROJECT["dependencies"],
        *(line for name in ("otel", "gpu", "gpu-rtx") for line in PROJECT["optional-dependencies"][name]),
    }


@pytest.mark.parametrize("wish", [["gpus"], ["--with", "otel,gpus"]])
def test_an_extra_that_does_not_exist_is_an_error_that_names_those_that_do(script, wish: list[str]) -> None:
    result = script("requirements.py", str(ROOT / "pyproject.toml"), *wish)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: gpus: no extra of ")
    assert "otel" in result.stderr


def test_what_an_extra_of_the_service_asks_for_is_pinned(constraints) -> None:
    for line in PROJECT["optional-dependencies"]["otel"]:
        assert line.partition(">=")[0] in constraints


def test_a_package_that_is_not_pinned_or_pinned_to_another_version_is_refused(script, tmp_path: Path) -> None:
    site, pins = tmp_path / "site", tmp_path / "constraints.txt"
    for name, version in (("Some_Package", "1.0"), ("other", "2.0"), ("third", "3.0")):
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    pins.write_text("# comment\nsome-package==1.0\nother==2.1\n")
    result = script("pinned.py", str(pins), PYTHONPATH=str(site))
    assert result.returncode == 1
    assert "other==2.0" in result.stderr
    assert "third==3.0" in result.stderr
    assert "some-package" not in result.stderr
