"""The manifests of docker/k8s, as they lie there and as kustomize renders them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.conftest import dockerfile, gpu_machine, script

__all__ = ["dockerfile", "gpu_machine", "script"]

ROOT = Path(__file__).parents[2]
K8S = ROOT / "docker" / "k8s"
COMPONENTS = ["monitoring", "jobs", "keys", "bundles", "engines", "traces", "urls"]

Object = dict[str, Any]
Render = Callable[[Path], list[Object]]
Compose = Callable[..., list[Object]]


def documents(path: Path) -> list[Object]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def load(name: str) -> Object:
    """The only document of a file of docker/k8s."""
    (found,) = documents(K8S / name)
    return found


def pick(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = (each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def literals(kustomization: str) -> dict[str, str]:
    """What the ConfigMap generator of that folder sets."""
    (generator,) = load(f"{kustomization}/kustomization.yaml")["configMapGenerator"]
    return dict(line.split("=", 1) for line in generator["literals"])


def container(pod: Object) -> Object:
    return pod["containers"][0]


def fits(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector, of which only `matchLabels` is used here, takes something with those labels."""
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def quantity(text: str) -> float:
    """`20m` → 0.02, `8Gi` → 8589934592."""
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    unit = next((each for each in units if text.endswith(each)), "")
    return float(text.removesuffix(unit)) * units.get(unit, 1)


def words(value: object) -> Iterator[str]:
    """Every string in it, keys too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from words(inner)
    elif isinstance(value, str):
        yield value


@pytest.fixture(scope="session")
def render() -> Render:
    """`render(folder)`: the objects that the kustomization there stands for."""
    if tool := shutil.which("kustomize"):
        command = [tool, "build"]
    elif tool := shutil.which("kubectl"):
        command = [tool, "kustomize"]
    else:
        pytest.skip("neither kustomize nor kubectl is installed")

    def run(folder: Path) -> list[Object]:
        result = subprocess.run([*command, folder], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""  # no field is deprecated
        return list(yaml.safe_load_all(result.stdout))

    return run


@pytest.fixture
def compose(render: Render, tmp_path: Path) -> Compose:
    """`compose("cpu", "jobs", "keys")`: a kustomization of one's own over an overlay, with those components."""

    def run(overlay: str, *components: str, **fields: object) -> list[Object]:
        # Elsewhere than the project, as of those who use it; kustomize takes no absolute paths.
        here = os.path.relpath(K8S, tmp_path.resolve())
        own = {
            "resources": [f"{here}/overlays/{overlay}"],
            "components": [f"{here}/components/{name}" for name in components],
        }
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({**own, **fields}), encoding="utf-8")
        return render(tmp_path)

    return run
