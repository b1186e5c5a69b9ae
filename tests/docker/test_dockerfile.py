"""The images are what pyproject, the constraints and the settings say they are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service import __version__
from service.doctor.gpu import OLDEST_DRIVER
from service.settings import Settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = ["cpu", "gpu", "engine", "build"]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, ROOT / "docker" / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_targets_are_the_last_stages_or_made_from_by_one(dockerfile) -> None:
    assert [name for name in dockerfile if name in TARGETS] == TARGETS
    header = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8").split("\n\n")[0]
    assert re.findall(r"^#   (\w+)  ", header, flags=re.MULTILINE) == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_user_that_is_not_root_and_stops_by_sigterm(dockerfile, target: str) -> None:
    assert dockerfile.last(target, "USER") == "10001:10001"
    assert dockerfile.last(target, "STOPSIGNAL") == "SIGTERM"
    assert "--uid 10001 --gid 10001" in " ".join(dockerfile["runtime"].of("RUN"))
    assert dockerfile.environment(target)["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("target", TARGETS)
def test_what_an_image_sets_are_settings_of_the_service(dockerfile, monkeypatch, target: str) -> None:
    given = {name: value for name, value in dockerfile.environment(target).items() if name.startswith("MAREY_")}
    assert {name.removeprefix("MAREY_").lower() for name in given} <= set(Settings.model_fields)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    if target in ("cpu", "gpu"):
        assert settings.host == "0.0.0.0"
        assert settings.port == Settings.model_fields["port"].default == int(dockerfile.last(target, "EXPOSE"))
    on_gpu = target in ("gpu", "engine")
    assert settings.engine == ("tensorrt" if on_gpu else "auto")
    if on_gpu:  # the volume takes its owner from this folder
        folder = f"install -d -o 10001 -g 10001 -m 0755 {settings.engine_cache} "
        assert folder in " ".join(dockerfile["runtime"].of("RUN"))


@pytest.mark.parametrize("target", TARGETS)
def test_every_command_of_an_image_is_in_it(dockerfile, target: str) -> None:
    words = [json.loads(dockerfile.last(target, "ENTRYPOINT"))[0], json.loads(dockerfile.last(target, "CMD"))[0]]
    health = dockerfile.last(target, "HEALTHCHECK") if target != "build" else "NONE"
    if health != "NONE":
        command = json.loads(health.partition("CMD ")[2])
        assert not [word for word in command if " " in word]
        words.append(command[0])
    copied = [text for name in ("code", "engine") for text in dockerfile[name].of("COPY")]
    scripts = {text.split()[-1].rpartition("/")[2]: text.split()[-2] for text in copied if "--chmod=0755" in text}
    for word in words:
        assert word in PROJECT["scripts"] or (ROOT / scripts[word]).is_file()
    for source in scripts.values():
        assert (ROOT / source).read_text(encoding="utf-8").startswith("#!/opt/marey/bin/python\n")


def test_the_versions_are_those_of_the_project(dockerfile, constraints) -> None:
    assert dockerfile["runtime"].of("ARG")[0] == f"VERSION={__version__}"
    (image,) = dockerfile[""].of("ARG")
    python = re.fullmatch(r"PYTHON_IMAGE=python:(\d+\.\d+)-slim-bookworm", image).group(1)
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    # One TensorRT, one CUDA: that of its packages, of the headers that PyCUDA is compiled with, of the oldest driver told.
    assert {constraints[name] for name in constraints if name.startswith("tensorrt-cu")} == {constraints["tensorrt"]}
    (cuda,) = {int(match) for name in constraints for match in re.findall(r"^tensorrt-(?:rtx-)?cu(\d+)", name)}
    assert constraints["nvidia-cuda-runtime"].startswith(f"{cuda}.0.")
    assert constraints["nvidia-cuda-profiler-api"].startswith(f"{cuda}.0.")
    assert cuda in OLDEST_DRIVER


def test_the_extras_are_those_of_the_project(dockerfile) -> None:
    extras = dict(text.split("=") for text in dockerfile["requirements"].of("ARG"))
    assert extras == {"GPU_EXTRA": "gpu", "BUILD_EXTRA": "build-cpu", "SERVE_EXTRAS": "otel"}
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    named = {
        extras["GPU_EXTRA"],
        extras["BUILD_EXTRA"],
        *re.findall(r"^# ?[^:\n]*?([\w-]+): TensorRT-RTX", text, flags=re.MULTILINE),
        "build",
    }
    assert named <= set(PROJECT["optional-dependencies"])


def test_extras_of_the_service_reach_every_image_that_serves(dockerfile) -> None:
    (written,) = dockerfile["requirements"].of("RUN")
    assert 'requirements.py pyproject.toml --with "$SERVE_EXTRAS" > cpu.txt' in written
    assert "--from=requirements /src/cpu.txt ./" in dockerfile["packages"].of("COPY")
    (installed,) = dockerfile["packages"].of("RUN")
    assert "--requirement cpu.txt" in installed
    # An extra whose packages are not pinned stops the build.
    assert installed.endswith("python pinned.py constraints.txt")
    assert dockerfile["packages-gpu"].base == "packages"
    for target, packages in (("cpu", "packages"), ("gpu", "packages-gpu"), ("engine", "packages-gpu")):
        copied = [line for stage in dockerfile.lineage(target) for line in stage.of("COPY")]
        assert f"--from={packages} /opt/marey /opt/marey" in copied


def test_every_package_is_installed_by_the_constraints(dockerfile) -> None:
    installs = [
        line
        for stage in dockerfile.values()
        for line in stage.of("RUN")
        if re.search(r"pip (--python \S+ )?(install|wheel)", line)
    ]
    assert len(installs) == 8
    loose = [line for line in installs if "--constraint constraints.txt" not in line]
    (own,) = loose  # Marey's own wheel, which takes nothing along
    assert own.count("--no-deps") == 2


def test_what_is_copied_is_in_the_tree_and_let_in_by_dockerignore(dockerfile) -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        source
        for stage in dockerfile.values()
        for line in stage.of("COPY")
        if "--from" not in line
        for source in [word for word in line.split() if not word.startswith("--")][:-1]
    }
    assert "service" in copied
    for source in copied:
        assert (ROOT / source).exists()
        assert source in let_in or ("docker/*.py" in let_in and re.fullmatch(r"docker/\w+\.py", source))
    assert "*" in ignore
    assert "**/.*" in ignore  # .env among them


def test_only_the_engine_image_holds_the_builder(dockerfile) -> None:
    assert [name for name, stage in dockerfile.items() if "--from=packages-gpu /builder /" in stage.of("COPY")] == [
        "engine"
    ]
    assert dockerfile["engine"].base == "gpu"
