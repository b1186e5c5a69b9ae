"""Who reaches which pod, how many there are, and what they are asked by Prometheus and the autoscaler."""

from __future__ import annotations

import ipaddress
import re

import pytest

from service import admission
from service.keys import Keys, add
from service.settings import Settings
from tests.k8s.conftest import COMPONENTS, Object, container, fits, literals, load, pick, quantity

DEPLOYMENT = load("base/deployment.yaml")
JOBS = load("components/jobs/statefulset.yaml")
HPA = load("base/hpa.yaml")
PDB = load("base/pdb.yaml")
MONITOR = load("components/monitoring/servicemonitor.yaml")
ADAPTER = load("components/monitoring/prometheus-adapter.yaml")
POLICIES = {
    name: load(f"{path}/networkpolicy.yaml")
    for name, path in {
        "base": "base",
        **{each: f"components/{each}" for each in ("monitoring", "traces", "urls")},
    }.items()
}


def labels(workload: Object) -> dict[str, str]:
    return workload["spec"]["template"]["metadata"]["labels"]


def exposition(served) -> str:
    return served.client.get("/metrics").text


@pytest.mark.parametrize("workload", [DEPLOYMENT, JOBS], ids=["serve", "jobs"])
def test_a_workload_selects_its_own_pods_and_no_others(workload: Object) -> None:
    other = JOBS if workload is DEPLOYMENT else DEPLOYMENT
    assert fits(workload["spec"]["selector"], labels(workload))
    assert not fits(workload["spec"]["selector"], labels(other))
    assert "app.kubernetes.io/version" not in workload["spec"]["selector"]["matchLabels"]  # it may never change


@pytest.mark.parametrize(
    ("path", "own", "other"),
    [("base/service.yaml", DEPLOYMENT, JOBS), ("components/jobs/service.yaml", JOBS, DEPLOYMENT)],
    ids=["marey", "marey-jobs"],
)
def test_a_service_sends_to_its_own_pods_and_no_others(path: str, own: Object, other: Object) -> None:
    spec = load(path)["spec"]
    assert spec["selector"].items() <= labels(own).items()
    assert not spec["selector"].items() <= labels(other).items()
    (port,) = spec["ports"]
    assert port["targetPort"] in {each["name"] for each in container(own["spec"]["template"]["spec"])["ports"]}


def test_what_is_asked_about_jobs_goes_to_the_pod_that_has_them(served) -> None:
    assert JOBS["spec"]["serviceName"] == "marey-jobs"
    (rule,) = load("components/jobs/ingress.yaml")["spec"]["rules"]
    backends = {each["path"]: each["backend"]["service"] for each in rule["http"]["paths"]}
    assert backends == {
        "/jobs": {"name": "marey-jobs", "port": {"name": "http"}},
        "/": {"name": "marey", "port": {"name": "http"}},
    }
    assert {each["pathType"] for each in rule["http"]["paths"]} == {"Prefix"}
    paths = {path for path in served.client.get("/openapi.json").json()["paths"] if "job" in path}
    assert paths
    assert all(path == "/jobs" or path.startswith("/jobs/") for path in paths)


def test_an_upload_of_a_job_passes_the_ingress() -> None:
    annotations = load("components/jobs/ingress.yaml")["metadata"]["annotations"]
    size = annotations["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert int(size.removesuffix("m")) * 2**20 > Settings.model_fields["max_job_bytes"].default
    assert annotations["nginx.ingress.kubernetes.io/proxy-request-buffering"] == "off"


def test_pods_without_jobs_say_so_and_answer_everything_else(serve, color_bundle) -> None:
    given = literals("base") | {"MAREY_LOG_FORMAT": "text", "MAREY_THREADS": "1", "MAREY_DECODE_WORKERS": "1"}
    with serve(str(color_bundle.path), **given) as served:
        for answer in (served.post("/jobs", b"video"), served.client.get("/jobs/1"), served.client.get("/jobs")):
            assert (answer.status_code, answer.json()["code"]) == (404, "no_jobs")
        assert served.client.get("/health/ready").json()["jobs"]["taken"] is False
        assert served.client.get("/health/ready").status_code == 200


def test_a_node_can_be_drained() -> None:
    least = HPA["spec"]["minReplicas"]
    assert least >= 2
    # Of as many as there are at least, one may go, and one stays.
    assert 0 < PDB["spec"]["maxUnavailable"] < least
    assert "minAvailable" not in PDB["spec"]
    assert PDB["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert fits(PDB["spec"]["selector"], labels(DEPLOYMENT))
    assert not fits(PDB["spec"]["selector"], labels(JOBS))


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_the_autoscaler_has_room_and_goes_down_slowly(compose, overlay: str) -> None:
    spec = pick(compose(overlay), "HorizontalPodAutoscaler", "marey")["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "marey"}
    assert spec["maxReplicas"] >= 2 * spec["minReplicas"]
    down, up = spec["behavior"]["scaleDown"], spec["behavior"]["scaleUp"]
    assert down["stabilizationWindowSeconds"] >= 300 > up["stabilizationWindowSeconds"]
    assert [policy["value"] for policy in down["policies"]] == [1]


def test_the_autoscaler_reads_what_the_service_exports(served) -> None:
    text = exposition(served)
    for metric in HPA["spec"]["metrics"]:
        assert metric["type"] == "Pods"
        wanted = metric["pods"]["metric"]
        ((label, value),) = wanted["selector"]["matchLabels"].items()
        assert re.search(rf'^{wanted["name"]}\{{{label}="{value}"\}} ', text, flags=re.MULTILINE)
        assert f"# TYPE {wanted['name']} gauge" in text


def test_there_are_more_pods_before_requests_are_refused() -> None:
    targets = {
        each["pods"]["metric"]["selector"]["matchLabels"]["priority"]: quantity(each["pods"]["target"]["averageValue"])
        for each in HPA["spec"]["metrics"]
    }
    refused = {"interactive": "queue_ms", "bulk": "timeout_ms"}
    assert set(targets) == set(refused)
    for priority, setting in refused.items():
        limit = Settings.model_fields[setting].default / 1000 / admission._SPREAD
        assert 0 < targets[priority] <= limit / 2


def test_the_adapter_offers_the_metric_of_the_autoscaler(served) -> None:
    (rule,) = ADAPTER["rules"]["custom"]
    wanted = {each["pods"]["metric"]["name"] for each in HPA["spec"]["metrics"]}
    assert {rule["name"]["as"]} == wanted
    (name,) = wanted
    assert re.fullmatch(r'(\w+)\{namespace!="",pod!=""\}', rule["seriesQuery"])[1] == name
    assert re.fullmatch(rule["name"]["matches"], name)
    assert name in exposition(served)
    # By pod and namespace, as prometheus-operator calls them, and with the label that the autoscaler selects by.
    assert rule["resources"]["overrides"] == {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}
    match = re.fullmatch(
        r"avg by \(<<\.GroupBy>>\) \(avg_over_time\(<<\.Series>>\{<<\.LabelMatchers>>\}\[(\d+)m\]\)\)",
        rule["metricsQuery"],
    )
    assert match
    (endpoint,) = MONITOR["spec"]["endpoints"]
    assert int(match[1]) * 60 >= 10 * int(endpoint["interval"].removesuffix("s"))


def test_prometheus_finds_both_services_and_may_reach_their_pods(served) -> None:
    (endpoint,) = MONITOR["spec"]["endpoints"]
    assert served.client.get(endpoint["path"]).status_code == 200
    assert int(endpoint["scrapeTimeout"].removesuffix("s")) < int(endpoint["interval"].removesuffix("s"))
    for path in ("base/service.yaml", "components/jobs/service.yaml"):
        service = load(path)
        assert fits(MONITOR["spec"]["selector"], service["metadata"]["labels"])
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    (rule,) = POLICIES["monitoring"]["spec"]["ingress"]
    (namespace,) = rule["from"]
    assert namespace == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


@pytest.mark.parametrize("name", POLICIES)
def test_a_network_policy_is_about_every_pod_of_marey(name: str) -> None:
    spec = POLICIES[name]["spec"]
    for workload in (DEPLOYMENT, JOBS):
        assert fits(spec["podSelector"], labels(workload))
        ports = {each["name"] for each in container(workload["spec"]["template"]["spec"])["ports"]}
        assert {each["port"] for rule in spec.get("ingress", []) for each in rule["ports"]} <= ports


def test_marey_is_asked_by_its_namespace_and_those_with_a_label_and_asks_nobody_but_dns() -> None:
    spec = POLICIES["base"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (inward,) = spec["ingress"]
    assert inward["from"] == [
        {"podSelector": {}},
        {"namespaceSelector": {"matchLabels": {"marey.dev/client": "true"}}},
    ]
    (outward,) = spec["egress"]
    assert {(each["protocol"], each["port"]) for each in outward["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert [set(each) for each in outward["to"]] == [{"namespaceSelector", "podSelector"}]  # both, of one peer


def test_other_policies_add_what_their_component_is_for_and_no_more() -> None:
    assert POLICIES["monitoring"]["spec"]["policyTypes"] == ["Ingress"]
    assert "egress" not in POLICIES["monitoring"]["spec"]
    for name in ("traces", "urls"):
        assert POLICIES[name]["spec"]["policyTypes"] == ["Egress"]
        assert "ingress" not in POLICIES[name]["spec"]
    (traces,) = POLICIES["traces"]["spec"]["egress"]
    url = literals("components/traces")["OTEL_EXPORTER_OTLP_ENDPOINT"]
    _, namespace, port = re.fullmatch(r"http://([\w-]+)\.([\w-]+):(\d+)", url).groups()
    assert traces["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]
    assert traces["ports"] == [{"protocol": "TCP", "port": int(port)}]


@pytest.mark.parametrize(
    "address",
    ["10.96.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "127.0.0.1", "100.64.0.1", "224.0.0.1",
     "0.0.0.0", "::1", "fe80::1", "fd00::1"],
)  # fmt: skip
def test_urls_lead_to_no_address_inside(address: str) -> None:
    (rule,) = POLICIES["urls"]["spec"]["egress"]
    found = ipaddress.ip_address(address)
    for peer in rule["to"]:
        inside = found in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        except_ = [ipaddress.ip_network(each) for each in peer["ipBlock"].get("except", [])]
        assert not inside or any(found in each for each in except_)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_urls_lead_to_public_addresses(address: str) -> None:
    (rule,) = POLICIES["urls"]["spec"]["egress"]
    assert {each["port"] for each in rule["ports"]} == {80, 443}
    found = ipaddress.ip_address(address)
    assert any(
        found in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        and not any(found in ipaddress.ip_network(each) for each in peer["ipBlock"].get("except", []))
        for peer in rule["to"]
    )


def test_where_keys_are_used_probes_need_none_and_prometheus_sends_its_own(serve, color_bundle, tmp_path) -> None:
    token = add(tmp_path / "keys", "prometheus")
    probed = {
        container(pod)[name]["httpGet"]["path"]
        for pod in (DEPLOYMENT["spec"]["template"]["spec"], load("kserve/servingruntime.yaml")["spec"])
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    (endpoint,) = MONITOR["spec"]["endpoints"]
    with serve(str(color_bundle.path), MAREY_KEYS=str(tmp_path / "keys")) as served:
        assert {served.client.get(path).status_code for path in probed} == {200}
        assert served.client.get(endpoint["path"]).status_code == 401
        # As prometheus-operator's `authorization` does where no `type` is given.
        assert served.client.get(endpoint["path"], headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_keys_are_read_where_the_secret_is_mounted_by_all_that_serve(compose) -> None:
    objects = compose("gpu", *COMPONENTS)
    path = next(each["data"] for each in objects if each["kind"] == "ConfigMap")["MAREY_KEYS"]
    for kind, name in (("Deployment", "marey"), ("StatefulSet", "marey-jobs")):
        pod = pick(objects, kind, name)["spec"]["template"]["spec"]
        (volume,) = (each for each in pod["volumes"] if each["name"] == "keys")
        (mount,) = (each for each in container(pod)["volumeMounts"] if each["name"] == "keys")
        assert path == f"{mount['mountPath']}/keys"
        assert mount == {
            "name": "keys",
            "mountPath": "/etc/marey",
            "readOnly": True,
        }  # no subPath: it would stay as it was
        assert volume["secret"] == {"secretName": "marey-keys", "defaultMode": 0o440}
    (endpoint,) = pick(objects, "ServiceMonitor", "marey")["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "marey-prometheus", "key": "key"}}
    assert "authorization" not in MONITOR["spec"]["endpoints"][0]


def test_keys_are_read_and_read_again_as_a_kubelet_lays_them_out(tmp_path) -> None:
    def lay(name: str, *, keys: list[str]) -> str:
        (tmp_path / name).mkdir()
        token = [add(tmp_path / name / "keys", key) for key in keys][-1]
        (tmp_path / name / "keys").chmod(0o440)
        (tmp_path / "new").symlink_to(name)
        (tmp_path / "new").rename(tmp_path / "..data")  # at once, as the kubelet does
        return token

    first = lay("..1", keys=["camera-1"])
    (tmp_path / "keys").symlink_to("..data/keys")
    now = 0.0
    keys = Keys(tmp_path / "keys", clock=lambda: now)
    assert keys.find(first).name == "camera-1"
    second = lay("..2", keys=["camera-1", "camera-2"])
    now = 2.0
    assert keys.find(second).name == "camera-2"
