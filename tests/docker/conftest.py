"""The Dockerfile and the compose file as data, and a machine with a stand-in GPU for the scripts of docker/."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Stage:
    """`base`: what FROM names; `steps`: the instructions as they stand, one line each."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]


class Dockerfile(dict[str, Stage]):
    """Stages by name."""

    def lineage(self, name: str) -> Iterator[Stage]:
        """The stage and those that it is made from, the nearest first."""
        while name in self:
            yield self[name]
            name = self[name].base

    def last(self, name: str, instruction: str) -> str:
        """What holds in the image of that stage: the last such instruction of its lineage."""
        return next(found[-1] for stage in self.lineage(name) if (found := stage.of(instruction)))

    def environment(self, name: str) -> dict[str, str]:
        pairs: dict[str, str] = {}
        for stage in reversed(list(self.lineage(name))):
            for line in stage.of("ENV"):
                pairs |= dict(word.split("=", 1) for word in shlex.split(line))
        return pairs


@pytest.fixture(scope="session")
def dockerfile() -> Dockerfile:
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    stages = Dockerfile({"": Stage("")})
    name = ""
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(base)
        elif instruction:
            stages[name].steps.append((instruction, rest))
    return stages


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.fixture(scope="session")
def gpu_machine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine with a stand-in GPU; see tests/standin/README.md."""
    pytest.importorskip("tensorrt_rtx", reason="the stand-ins need tensorrt-rtx, which is for x86-64 only")
    folder, standin = tmp_path_factory.mktemp("driver"), ROOT / "tests" / "standin"
    compiler = ["gcc", "-std=gnu11", "-shared", "-fPIC", "-pthread"]
    cuda = [*compiler, "-fvisibility=hidden", "-o", folder / "libcuda.so.1", *sorted((standin / "libcuda").glob("*.c"))]
    subprocess.run(cuda, check=True)
    subprocess.run([*compiler, "-o", folder / "libnvidia-ml.so.1", standin / "libnvml.c"], check=True)
    return {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join(map(str, (standin, ROOT)))}


@pytest.fixture
def script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`script(name, *arguments, cwd=ROOT, **environment)`: a script of docker/, run as in the image but by this interpreter."""

    def run(name: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {key: value for key, value in os.environ.items() if not key.startswith("MAREY_")}
        return subprocess.run(
            [sys.executable, ROOT / "docker" / name, *arguments],
            cwd=cwd,
            env={"PYTHONPATH": str(ROOT), **variables, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
