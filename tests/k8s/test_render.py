"""What `kubectl apply -k` would send, object by object, against the schemas of three versions of Kubernetes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from kubernetes_validate import SchemaNotFoundError, ValidationError, validate

from service import __version__
from tests.k8s.conftest import COMPONENTS, K8S, ROOT, container, documents, pick, words

# The oldest that has all that is used (preStop.sleep), one between, the newest that the validator holds.
VERSIONS = ["1.30", "1.34", "1.37"]
# Not of Kubernetes itself, and so without a schema here; test_custom_resources.py looks at them.
CUSTOM = {"ServiceMonitor", "ServingRuntime", "InferenceService", "RayService"}
BASE = {
    "Namespace/marey",
    "ServiceAccount/marey",
    "ConfigMap/marey-settings",
    "Service/marey",
    "Deployment/marey",
    "PodDisruptionBudget/marey",
    "HorizontalPodAutoscaler/marey",
    "NetworkPolicy/marey",
}
ADDED = {
    "monitoring": {"ServiceMonitor/marey", "NetworkPolicy/marey-metrics"},
    "jobs": {"StatefulSet/marey-jobs", "Service/marey-jobs", "Ingress/marey"},
    "keys": set(),
    "bundles": set(),
    "engines": {"PersistentVolumeClaim/marey-engines"},
    "traces": {"NetworkPolicy/marey-traces"},
    "urls": {"NetworkPolicy/marey-urls"},
}


def names(objects) -> list[str]:
    plain = [re.sub(r"^(marey-settings)-\w{10}$", r"\1", each["metadata"]["name"]) for each in objects]
    return [f"{each['kind']}/{name}" for each, name in zip(objects, plain, strict=True)]


def assert_valid(objects) -> None:
    for each in objects:
        if each["kind"] not in CUSTOM:
            for version in VERSIONS:
                assert validate(each, version, strict=True) == version


def test_every_kustomization_is_tested_here() -> None:
    folders = {path.parent.relative_to(K8S).as_posix() for path in K8S.rglob("kustomization.yaml")}
    assert folders == {
        "base",
        "overlays/cpu",
        "overlays/gpu",
        "kserve",
        "ray",
        *(f"components/{name}" for name in COMPONENTS),
    }
    assert set(ADDED) == set(COMPONENTS)


def test_every_file_is_part_of_a_kustomization() -> None:
    for folder in {path.parent for path in K8S.rglob("*.yaml")}:
        used = set(words(yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))))
        files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        # Values of a Helm chart: the adapter runs once in a cluster, and is not Marey's.
        assert files - used == ({"prometheus-adapter.yaml"} if folder.name == "monitoring" else set())


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_an_overlay_renders_to_valid_objects(render, overlay: str) -> None:
    objects = render(K8S / "overlays" / overlay)
    assert sorted(names(objects)) == sorted(BASE)
    assert_valid(objects)


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_renders_over_each_overlay(compose, overlay: str, name: str) -> None:
    objects = compose(overlay, name)
    assert sorted(names(objects)) == sorted(BASE | ADDED[name])
    assert_valid(objects)


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_all_components_render_together(compose, overlay: str) -> None:
    objects = compose(overlay, *COMPONENTS)
    assert sorted(names(objects)) == sorted(BASE.union(*ADDED.values()))
    assert_valid(objects)


def test_only_custom_resources_have_no_schema(compose, render) -> None:
    found = set()
    for each in [*compose("gpu", *COMPONENTS), *render(K8S / "kserve"), *render(K8S / "ray")]:
        try:
            validate(each, VERSIONS[0], strict=True)
        except SchemaNotFoundError:
            found.add(each["kind"])
    assert found == CUSTOM


def test_a_misspelt_field_is_found(render) -> None:
    deployment = pick(render(K8S / "overlays" / "cpu"), "Deployment", "marey")
    container(deployment["spec"]["template"]["spec"])["livenessProb"] = {}
    with pytest.raises(ValidationError, match="livenessProb"):
        assert_valid([deployment])


@pytest.mark.parametrize(
    "path",
    sorted(K8S.glob("*/*.yaml")) + sorted(K8S.glob("components/*/*.yaml")),
    ids=lambda path: path.parent.name + "/" + path.name,
)
def test_a_file_of_objects_is_valid_without_kustomize(path: Path) -> None:
    for each in documents(path):
        if isinstance(each, dict) and each.get("kind") not in {*CUSTOM, "Kustomization", "Component", None}:
            if path.parts[-2:] == ("engines", "volume.yaml"):
                continue  # a patch: half a Deployment
            assert_valid([each])


def test_pods_read_the_settings_by_the_name_that_their_content_gives(compose) -> None:
    def settings(**change: str) -> tuple[str, set[str]]:
        generator = [
            {"name": "marey-settings", "behavior": "merge", "literals": [f"{k}={v}" for k, v in change.items()]}
        ]
        objects = compose("gpu", "jobs", configMapGenerator=generator)
        (found,) = (each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap")
        return found, {
            word for each in objects if each["kind"] != "ConfigMap" for word in words(each) if "settings" in word
        }

    before, after = settings(MAREY_QUEUE_MS="100"), settings(MAREY_QUEUE_MS="200")
    assert before[0] != after[0]
    for name, used in (before, after):
        assert used == {name}


def test_images_and_namespace_are_changed_from_outside(compose) -> None:
    registry = "registry.example.org/vision"
    images = [{"name": f"marey-{name}", "newName": f"{registry}/marey-{name}"} for name in ("cpu", "api", "engine")]
    objects = compose("gpu", *COMPONENTS, images=images, namespace="vision")
    used = {word for each in objects for word in words(each) if re.search(r"marey-(cpu|api|engine):", word)}
    assert used == {f"{registry}/marey-{name}:{__version__}" for name in ("cpu", "api", "engine")}
    assert {each["metadata"].get("namespace", each["metadata"]["name"]) for each in objects} == {"vision"}


def test_the_image_under_kserve_is_changed_from_outside(render, tmp_path: Path) -> None:
    images = [{"name": "marey-cpu", "newName": "registry.example.org/marey-cpu"}]
    own = {"resources": [os.path.relpath(K8S / "kserve", tmp_path.resolve())], "images": images}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    runtime = pick(render(tmp_path), "ServingRuntime", "marey")
    assert container(runtime["spec"])["image"] == f"registry.example.org/marey-cpu:{__version__}"


def test_the_example_of_the_documentation_renders(render, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    (example,) = (
        block
        for block in re.findall(r"^```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        if "resources:" in block
    )
    (tmp_path / "docker").symlink_to(ROOT / "docker")
    folder = tmp_path / "deploy"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(example, encoding="utf-8")
    objects = render(folder)
    assert {"StatefulSet/marey-jobs", "ServiceMonitor/marey", "ConfigMap/marey-settings"} < set(names(objects))
    assert_valid(objects)
    settings = next(each["data"] for each in objects if each["kind"] == "ConfigMap")
    assert settings["MAREY_KEYS"] == "/etc/marey/keys"
    for line in yaml.safe_load(example)["configMapGenerator"][0]["literals"]:
        name, _, value = line.partition("=")
        assert settings[name] == value


def test_every_path_and_component_in_the_documentation_exists() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    named = set(re.findall(r"docker/k8s(?:/[\w.-]+)*", text))
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
    for name in COMPONENTS:
        assert f"`{name}`" in text
