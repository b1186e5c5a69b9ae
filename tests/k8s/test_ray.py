"""The RayService: what kustomize makes of it, its pods, and whether what the replicas ask for is there."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from service.bundle.store import SHIPPED, find_bundles
from service.scale.spread import Spread
from service.settings import Settings
from tests.conftest import ROOT
from tests.k8s.conftest import K8S, Object, documents, literals, load, quantity

SERVICE = load("ray/rayservice.yaml")
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
GROUPS = {each["groupName"]: each["template"]["spec"] for each in CLUSTER["workerGroupSpecs"]}
PODS = {"head": CLUSTER["headGroupSpec"]["template"]["spec"], **GROUPS}
# ray.io/v1, KubeRay's API reference: RayServiceSpec, RayClusterSpec, HeadGroupSpec, WorkerGroupSpec.
SERVICE_SPEC = {"serveConfigV2", "rayClusterConfig"}
CLUSTER_SPEC = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"
}  # fmt: skip
GROUP_SPEC = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}

each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)


def applications() -> dict[str, Any]:
    return {each["name"]: each for each in yaml.safe_load(SERVICE["spec"]["serveConfigV2"])["applications"]}


def settings() -> Settings:
    said = {name.removeprefix("MAREY_").lower(): value for name, value in literals("ray").items() if "MAREY" in name}
    return Settings(**said)  # type: ignore[arg-type]


def test_it_renders_with_the_names_and_images_that_kustomize_gives(render) -> None:
    rendered = render(K8S / "ray")
    assert len(rendered) == 6
    objects = {each["kind"]: each for each in rendered}
    assert set(objects) == {"Namespace", "ConfigMap", "PersistentVolumeClaim", "NetworkPolicy", "RayService"}
    for each in objects.values():
        if each["kind"] != "RayService":
            validate(each, "1.30", strict=True)
    cluster = objects["RayService"]["spec"]["rayClusterConfig"]
    specs = [each["template"]["spec"] for each in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    named = {spec["containers"][0]["envFrom"][0]["configMapRef"]["name"] for spec in specs}
    assert named == {objects["ConfigMap"]["metadata"]["name"]}
    assert re.fullmatch(r"marey-ray-settings-\w{10}", *named)
    assert {spec["containers"][0]["image"] for spec in specs} == {"marey-cpu:0.1.0", "marey-engine:0.1.0"}


def test_the_fields_are_those_of_kuberay() -> None:
    assert SERVICE["apiVersion"] == "ray.io/v1"
    assert set(SERVICE["spec"]) == SERVICE_SPEC
    assert set(CLUSTER) == CLUSTER_SPEC
    assert all(set(each) == GROUP_SPEC for each in CLUSTER["workerGroupSpecs"])
    assert load("ray/namespace.yaml") == load("base/namespace.yaml")


def test_ray_is_the_version_that_the_image_has() -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert str(CLUSTER["rayVersion"]) == pinned[1]


@each_pod
def test_a_pod_is_one_that_the_namespace_takes(pod: Object) -> None:
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}, "1.30", strict=True)
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == CLUSTER["autoscalerOptions"]["securityContext"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["enableServiceLinks"] is False
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in pod["volumes"]} == {"tmp", "shm", "state"}


@pytest.mark.parametrize("pod", GROUPS.values(), ids=GROUPS)
def test_a_worker_is_killed_only_after_its_drain(pod: Object) -> None:
    assert pod["terminationGracePeriodSeconds"] >= settings().drain_s + 20


def test_every_replica_has_a_machine_that_is_large_enough() -> None:
    cores = {name: quantity(pod["containers"][0]["resources"]["requests"]["cpu"]) for name, pod in GROUPS.items()}
    spread = Spread(**applications()["marey"]["args"])
    assert spread.of_ingress(settings()) <= cores["cpus"]
    most = {each["groupName"]: each["maxReplicas"] for each in CLUSTER["workerGroupSpecs"]}
    # As many machines as the most replicas need, of the bundles that ship: two of them.
    assert most["cpus"] * (cores["cpus"] // spread.of_ingress(settings())) >= spread.ingress[1]
    on_one = min(1 // spread.engine_gpus, cores["gpus"] // spread.of_engine(settings()))
    assert on_one == 2
    assert most["gpus"] * on_one >= spread.engines[1] * len(find_bundles((SHIPPED,)))
    assert "nvidia.com/gpu" in GROUPS["gpus"]["containers"][0]["resources"]["limits"]


def test_jobs_have_one_machine_and_a_volume_that_outlives_it() -> None:
    (deployment,) = applications()["marey-jobs"]["deployments"]
    assert deployment["ray_actor_options"]["resources"] == {"jobs": 1}
    offering = [each for each in CLUSTER["workerGroupSpecs"] if "jobs" in each["rayStartParams"].get("resources", "")]
    assert [each["groupName"] for each in offering] == ["jobs"]
    assert offering[0]["maxReplicas"] == 1
    assert deployment["ray_actor_options"]["num_cpus"] <= 4
    volumes = {each["name"]: each for each in GROUPS["jobs"]["volumes"]}
    assert volumes["state"]["persistentVolumeClaim"]["claimName"] == load("ray/jobs.yaml")["metadata"]["name"]


def test_requests_and_the_operator_reach_ray_and_nobody_else_its_own_ports() -> None:
    (policy, head) = (each["spec"] for each in documents(K8S / "ray" / "networkpolicy.yaml"))
    assert head["podSelector"]["matchLabels"]["ray.io/node-type"] == "head"
    assert [each["port"] for each in head["egress"][0]["ports"]] == [443, 6443]
    assert (
        policy["podSelector"]["matchLabels"].items()
        <= CLUSTER["headGroupSpec"]["template"]["metadata"]["labels"].items()
    )
    among, clients, operator = policy["ingress"]
    assert among == {"from": [{"podSelector": policy["podSelector"]}]}
    assert [each["port"] for each in clients["ports"]] == [8000]
    assert clients["from"] == load("base/networkpolicy.yaml")["spec"]["ingress"][0]["from"]
    assert {each["port"] for each in operator["ports"]} == {8265, 8000, 52365}
