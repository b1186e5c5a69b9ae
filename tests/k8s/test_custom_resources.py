"""What is not of Kubernetes itself, field by field: each that is used, and where it is documented."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubernetes_validate import validate

from service.bundle.store import SHIPPED, find_bundles, open_bundle
from tests.k8s.conftest import K8S, Object, documents, load

# monitoring.coreos.com/v1, API reference of prometheus-operator: ServiceMonitorSpec, Endpoint, SafeAuthorization.
SERVICE_MONITOR = {
    "selector.matchLabels.app.kubernetes.io/name",
    "endpoints[].port",
    "endpoints[].path",
    "endpoints[].interval",
    "endpoints[].scrapeTimeout",
}
AUTHORIZATION = {"credentials.name", "credentials.key"}
# serving.kserve.io/v1alpha1, KServe's servingruntime_types.go: ServingRuntimeSpec and the ServingRuntimePodSpec within.
SERVING_RUNTIME = {"annotations", "supportedModelFormats", "protocolVersions", "containers", "volumes"}
MODEL_FORMAT = {"name", "version", "autoSelect"}
# serving.kserve.io/v1beta1, predictor.go and component.go: ComponentExtensionSpec and ModelSpec; the others are a PodSpec's.
COMPONENT = {"minReplicas", "maxReplicas"}
MODEL = {"modelFormat", "runtime", "protocolVersion", "storageUri"}

RUNTIME = load("kserve/servingruntime.yaml")
SERVICE = load("kserve/inferenceservice.yaml")


def paths(value: object, at: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, f"{at}[]")
    else:
        yield at


def assert_pod(spec: Object) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    for version in ("1.30", "1.37"):
        validate(pod, version, strict=True)


def test_a_service_monitor_has_fields_that_prometheus_operator_knows() -> None:
    monitor = load("components/monitoring/servicemonitor.yaml")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(paths(monitor["spec"])) == SERVICE_MONITOR
    ((patch,),) = documents(K8S / "components" / "keys" / "servicemonitor.yaml")
    assert (patch["path"], set(paths(patch["value"]))) == ("/spec/endpoints/0/authorization", AUTHORIZATION)


def test_a_serving_runtime_has_fields_that_kserve_knows_and_describes_a_pod() -> None:
    assert RUNTIME["apiVersion"] == "serving.kserve.io/v1alpha1"
    spec = RUNTIME["spec"]
    assert set(spec) == SERVING_RUNTIME
    assert all(set(each) == MODEL_FORMAT for each in spec["supportedModelFormats"])
    assert_pod({"containers": spec["containers"], "volumes": spec["volumes"]})
    (found,) = spec["containers"]
    assert found["name"] == "kserve-container"  # the one that KServe mounts the model into
    (port,) = found["ports"]
    assert (port["name"], port["protocol"]) == ("http1", "TCP")
    assert spec["annotations"] == {
        "prometheus.kserve.io/port": str(port["containerPort"]),
        "prometheus.kserve.io/path": "/metrics",
    }


def test_an_inference_service_has_fields_that_kserve_knows_over_a_pod() -> None:
    assert SERVICE["apiVersion"] == "serving.kserve.io/v1beta1"
    assert set(SERVICE["spec"]) == {"predictor"}
    predictor = dict(SERVICE["spec"]["predictor"])
    model = predictor.pop("model")
    assert set(model) == MODEL
    extension = {name: predictor.pop(name) for name in COMPONENT}
    assert 2 <= extension["minReplicas"] <= extension["maxReplicas"]
    assert_pod({**predictor, "containers": [{"name": "x", "image": "x"}]})
    assert SERVICE["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Standard"}


def test_the_inference_service_asks_for_what_the_runtime_offers() -> None:
    model = SERVICE["spec"]["predictor"]["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["modelFormat"]["name"] in {each["name"] for each in RUNTIME["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    (found,) = RUNTIME["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in found["env"]}
    assert environment["MAREY_BUNDLES"] == "/mnt/models"


def test_the_inference_service_is_called_like_the_model_that_its_clients_ask_for() -> None:
    name = SERVICE["metadata"]["name"]
    assert SERVICE["spec"]["predictor"]["model"]["storageUri"].rpartition("/")[2] == name
    assert name in {open_bundle(path).manifest.name for path in find_bundles([SHIPPED])}


@pytest.mark.parametrize("path", ["", "/ready"])
def test_the_open_inference_protocol_answers_for_a_bundle_that_lies_in_the_folder_itself(served, path: str) -> None:
    # `served` is given one bundle's own folder, as KServe mounts it.
    assert served.client.get(f"/v2/models/color{path}").status_code == 200
    assert served.client.get("/v2/health/live").status_code == 200
