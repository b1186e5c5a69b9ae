"""Each pod that is described: what it may do, how it is asked, started and stopped, and what it is given."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from service import __version__
from service.settings import Settings
from tests.conftest import make_color_bundle
from tests.k8s.conftest import COMPONENTS, K8S, Object, container, literals, load, pick, quantity, words

DEPLOYMENT = load("base/deployment.yaml")
JOBS = load("components/jobs/statefulset.yaml")
RUNTIME = load("kserve/servingruntime.yaml")
PREDICTOR = load("kserve/inferenceservice.yaml")["spec"]["predictor"]
# KServe puts the two together.
KSERVE = {**{name: value for name, value in PREDICTOR.items() if name != "model"}, **RUNTIME["spec"]}
PODS: dict[str, Object] = {
    "serve": DEPLOYMENT["spec"]["template"]["spec"],
    "jobs": JOBS["spec"]["template"]["spec"],
    "kserve": KSERVE,
}
each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)


def settings_of(pod: Object) -> dict[str, str]:
    """The MAREY_ variables that its container gets from here."""
    named = {each["name"]: each["value"] for each in container(pod).get("env", [])}
    shared = literals("base") if container(pod).get("envFrom") else {}
    return shared | named


@pytest.fixture
def gpu(render) -> Object:
    return pick(render(K8S / "overlays" / "gpu"), "Deployment", "marey")["spec"]["template"]["spec"]


def guarded(found: Object, pod: Object) -> None:
    """What Kubernetes calls restricted, and a root that nobody writes."""
    own = found["securityContext"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    together = {**pod["securityContext"], **own}
    assert together["runAsNonRoot"] is True
    assert together["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (together["runAsUser"], together["runAsGroup"], together["fsGroup"]) == (10001, 10001, 10001)
    assert not {"privileged", "procMount"} & set(own)


@each_pod
def test_a_pod_may_do_nothing_that_serving_does_not_need(pod: Object, dockerfile) -> None:
    guarded(container(pod), pod)
    assert dockerfile.last("cpu", "USER") == "10001:10001"
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod)
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]


def test_the_namespace_refuses_pods_that_may_do_more() -> None:
    labels = load("base/namespace.yaml")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert load("base/serviceaccount.yaml")["automountServiceAccountToken"] is False
    assert PODS["serve"]["serviceAccountName"] == PODS["jobs"]["serviceAccountName"] == "marey"


@each_pod
def test_a_service_called_marey_does_not_become_a_setting(pod: Object, monkeypatch) -> None:
    assert pod["enableServiceLinks"] is False
    monkeypatch.setenv("MAREY_PORT", "tcp://10.0.0.1:80")  # what Kubernetes would set
    with pytest.raises(ValidationError):
        Settings()


@each_pod
def test_every_setting_exists_and_is_taken(pod: Object, monkeypatch) -> None:
    given = settings_of(pod)
    assert {name.removeprefix("MAREY_").lower() for name in given} <= set(Settings.model_fields)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.log_format == "json"
    assert (settings.max_jobs > 0) == (pod is PODS["jobs"])


@pytest.mark.parametrize(
    "name", ["base", "overlays/gpu", *(f"components/{name}" for name in ("keys", "traces", "urls"))]
)
def test_every_setting_of_a_kustomization_exists_and_is_taken(name: str, monkeypatch) -> None:
    for variable, value in literals(name).items():
        if not variable.startswith("OTEL_"):
            assert variable.removeprefix("MAREY_").lower() in Settings.model_fields
            monkeypatch.setenv(variable, value)
    Settings()


def test_no_other_file_names_a_setting_that_does_not_exist() -> None:
    known = {f"MAREY_{name.upper()}" for name in Settings.model_fields}
    for path in K8S.rglob("*.yaml"):
        assert set(re.findall(r"MAREY_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8"))) <= known, path


@each_pod
def test_the_port_is_the_one_that_the_image_listens_on(pod: Object, dockerfile) -> None:
    (port,) = container(pod)["ports"]
    assert port["containerPort"] == int(dockerfile.environment("cpu")["MAREY_PORT"])
    assert settings_of(pod).get("MAREY_PORT", "8000") == str(port["containerPort"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(pod)[probe]["httpGet"]["port"] in (port["name"], port["containerPort"])


@each_pod
def test_what_probes_ask_for_is_answered(pod: Object, served) -> None:
    asked = {name: container(pod)[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    prefix = "/v2" if pod is PODS["kserve"] else ""
    assert asked == {
        "startup": f"{prefix}/health/ready",
        "readiness": f"{prefix}/health/ready",
        "liveness": f"{prefix}/health/live",
    }
    for path in asked.values():
        assert served.client.get(path).status_code == 200


@each_pod
def test_models_get_minutes_to_load_before_liveness_counts(pod: Object) -> None:
    probe = container(pod)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 120
    # A restart is the last resort: three readings, while traffic stops after two that are closer together.
    live, ready = container(pod)["livenessProbe"], container(pod)["readinessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] > ready["periodSeconds"] * ready["failureThreshold"]


@each_pod
def test_a_pod_is_killed_only_after_its_pause_and_its_drain(pod: Object) -> None:
    pause = container(pod)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(settings_of(pod)["MAREY_DRAIN_S"])
    assert 5 <= pause <= 15  # longer than endpoints take to reach the nodes
    assert pod["terminationGracePeriodSeconds"] >= pause + drain + 10


def assert_processors(found: Object, threads: int, decoders: int) -> None:
    requests, limits = found["resources"]["requests"], found["resources"]["limits"]
    assert quantity(requests["cpu"]) == max(threads, decoders)
    assert quantity(limits["cpu"]) == threads + decoders
    assert requests["memory"] == limits["memory"]  # what is not promised may be taken away


@each_pod
def test_processors_and_memory_are_those_that_the_settings_use(pod: Object) -> None:
    given = settings_of(pod)
    assert_processors(container(pod), int(given["MAREY_THREADS"]), int(given["MAREY_DECODE_WORKERS"]))
    memory = quantity(container(pod)["resources"]["limits"]["memory"])
    assert memory >= 4 * Settings.model_fields["max_queued_bytes"].default


def assert_disk(pod: Object) -> None:
    folders = {each["name"]: quantity(each["emptyDir"]["sizeLimit"]) for each in pod["volumes"] if "emptyDir" in each}
    for found in [*pod["containers"], *pod.get("initContainers", [])]:
        # Logs and the writable layer count as well.
        assert quantity(found["resources"]["limits"]["ephemeral-storage"]) > sum(folders.values())
    if "state" in folders:
        assert folders["state"] > Settings.model_fields["max_spool_bytes"].default


@each_pod
def test_what_is_written_has_room_and_nothing_else_is_writable(pod: Object, dockerfile) -> None:
    environment = dockerfile.environment("cpu")
    mounts = {each["mountPath"]: each["name"] for each in container(pod)["volumeMounts"] if not each.get("readOnly")}
    assert set(mounts) == {environment["HOME"], environment["MAREY_SPOOL"]}
    assert environment["MAREY_JOBS"].startswith(f"{environment['MAREY_SPOOL']}/")
    kept = {each["metadata"]["name"] for each in JOBS["spec"]["volumeClaimTemplates"]} if pod is PODS["jobs"] else set()
    assert set(mounts.values()) == {each["name"] for each in pod["volumes"]} | kept
    assert_disk(pod)


def test_jobs_outlive_their_pod_and_have_one_at_a_time() -> None:
    assert JOBS["spec"]["replicas"] == 1
    (claim,) = JOBS["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "state"
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert (
        quantity(claim["spec"]["resources"]["requests"]["storage"]) > Settings.model_fields["max_spool_bytes"].default
    )
    # Kubernetes does not let these change: a label of the version would stop every upgrade.
    assert "labels" not in claim["metadata"]


def test_the_pod_of_jobs_is_the_one_that_serves_but_for_what_it_says() -> None:
    serve, jobs = (dict(PODS[name]) for name in ("serve", "jobs"))
    assert serve.pop("topologySpreadConstraints")
    assert [each["name"] for each in serve.pop("volumes")] == ["tmp", "state"]
    assert [each["name"] for each in jobs.pop("volumes")] == ["tmp"]
    first, second = (dict(pod.pop("containers")[0]) for pod in (serve, jobs))
    assert serve == jobs
    assert {each["name"] for each in second.pop("env")} == {"MAREY_MAX_JOBS", "MAREY_THREADS", "MAREY_DECODE_WORKERS"}
    for found in (first, second):
        found["resources"] = {**found["resources"], "limits": found["resources"]["limits"] | {"ephemeral-storage": ""}}
    assert first == second


def test_images_and_labels_are_of_this_version(compose) -> None:
    objects = compose("gpu", *COMPONENTS)
    for name in ("Deployment/marey", "StatefulSet/marey-jobs"):
        template = pick(objects, *name.split("/"))["spec"]["template"]
        assert template["metadata"]["labels"]["app.kubernetes.io/version"] == __version__
    assert load("base/kustomization.yaml")["labels"][0]["pairs"]["app.kubernetes.io/version"] == __version__
    for path in K8S.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        tags = re.findall(r"marey-(?:cpu|api|engine):([\w.]+)|newTag: ([\w.]+)", text)
        assert {word for tag in tags for word in tag if word} <= {__version__}, path


def test_images_are_those_of_the_targets(gpu: Object, dockerfile) -> None:
    readme = (K8S.parents[1] / "README.md").read_text(encoding="utf-8")
    targets = dict(re.findall(r"^\| `(marey-\w+)` \| `(\w+)` \|", readme, flags=re.MULTILINE))
    images = {each["name"]: each["image"].partition(":")[0] for each in [*gpu["containers"], *gpu["initContainers"]]}
    assert {name: targets[image] for name, image in images.items()} == {"marey": "gpu", "engines": "engine"}
    assert {targets[container(pod)["image"].partition(":")[0]] for pod in PODS.values()} == {"cpu"}
    assert dockerfile.last("engine", "CMD") == '["marey-engines"]'
    assert dockerfile.last("gpu", "CMD") == '["marey", "serve"]'
    for found in (container(gpu), *gpu["initContainers"], *map(container, PODS.values())):
        assert not {"command", "args"} & set(found)  # the entrypoint looks for what is missing, and says it


def test_a_gpu_serves_engines_that_another_container_has_built_and_it_cannot_change(gpu: Object, dockerfile) -> None:
    (builder,) = gpu["initContainers"]
    guarded(builder, gpu)
    cache = dockerfile.environment("gpu")["MAREY_ENGINE_CACHE"]
    built, used = (
        {each["mountPath"]: each for each in found["volumeMounts"]}[cache] for found in (builder, container(gpu))
    )
    assert built["name"] == used["name"]
    assert (built.get("readOnly"), used["readOnly"]) == (None, True)
    for found in (builder, container(gpu)):
        assert found["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert builder["envFrom"] == container(gpu)["envFrom"]  # the same precision, for the same bundles
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in gpu["tolerations"]
    assert_disk(gpu)


def test_engines_that_lie_in_an_empty_dir_are_loaded_and_not_built_again(script, gpu_machine, tmp_path) -> None:
    make_color_bundle(tmp_path / "color")
    cache = tmp_path / "engines"
    cache.mkdir()
    cache.chmod(0o2777)  # as a kubelet makes it, with fsGroup
    environment = {**gpu_machine, "MAREY_BUNDLES": str(tmp_path / "color"), "MAREY_ENGINE_CACHE": str(cache)}
    result = script("engines.py", **environment)
    assert result.returncode == 0, result.stderr
    before = {plan: plan.stat().st_mtime_ns for plan in cache.glob("*/*.plan")}
    assert before
    assert script("engines.py", **environment).returncode == 0
    assert {plan: plan.stat().st_mtime_ns for plan in cache.glob("*/*.plan")} == before


def test_a_gpu_pod_has_the_processors_of_its_settings_and_time_to_build(render) -> None:
    deployment = pick(render(K8S / "overlays" / "gpu"), "Deployment", "marey")
    given = literals("base") | literals("overlays/gpu")
    pod = deployment["spec"]["template"]["spec"]
    assert_processors(container(pod), int(given["MAREY_THREADS"]), int(given["MAREY_DECODE_WORKERS"]))
    assert deployment["spec"]["progressDeadlineSeconds"] >= 1800
    guarded(container(pod), pod)
    probe = container(pod)["startupProbe"]
    assert probe["httpGet"]["path"] == "/health/ready"
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 600


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_your_bundles_are_seen_by_everything_that_opens_bundles(compose, dockerfile, overlay: str) -> None:
    objects = compose(overlay, "jobs", "bundles")
    place = dockerfile.environment("cpu")["MAREY_BUNDLES"]
    for kind, name in (("Deployment", "marey"), ("StatefulSet", "marey-jobs")):
        pod = pick(objects, kind, name)["spec"]["template"]["spec"]
        (volume,) = (each for each in pod["volumes"] if each["name"] == "bundles")
        assert volume["persistentVolumeClaim"] == {"claimName": "marey-bundles", "readOnly": True}
        for found in [*pod["containers"], *pod.get("initContainers", [])]:
            (mount,) = (each for each in found["volumeMounts"] if each["name"] == "bundles")
            assert (mount["mountPath"], mount["readOnly"]) == (place, True)
    gpu = pick(objects, "Deployment", "marey")["spec"]["template"]["spec"]
    assert len(gpu.get("initContainers", [])) == (overlay == "gpu")


def test_shared_engines_replace_those_of_the_pod(compose) -> None:
    objects = compose("gpu", "engines")
    pod = pick(objects, "Deployment", "marey")["spec"]["template"]["spec"]
    (volume,) = (each for each in pod["volumes"] if each["name"] == "engines")
    assert volume == {"name": "engines", "persistentVolumeClaim": {"claimName": "marey-engines"}}
    claim = pick(objects, "PersistentVolumeClaim", "marey-engines")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert "marey-engines" not in set(words(pick(compose("cpu", "engines"), "Deployment", "marey")))


def test_a_rollout_never_has_fewer_pods_than_before() -> None:
    assert DEPLOYMENT["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    assert "replicas" not in DEPLOYMENT["spec"]  # the autoscaler's
    spread = {each["topologyKey"]: each for each in PODS["serve"]["topologySpreadConstraints"]}
    assert set(spread) == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    for each in spread.values():
        assert each["labelSelector"] == DEPLOYMENT["spec"]["selector"]
        assert each["whenUnsatisfiable"] == "ScheduleAnyway"  # one node is no reason to run one pod
