"""Prometheus, Grafana, the collector and Jaeger in docker-compose.yml: guarded, pinned, and only where they are asked for."""

from __future__ import annotations

import configparser
import re
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.monitoring.queries import DASHBOARD, MONITORING, ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PROFILES = {"prometheus": "monitoring", "grafana": "monitoring", "collector": "tracing", "jaeger": "tracing"}
PORTS = {"prometheus": 9090, "grafana": 3000, "jaeger": 16686}
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")


@pytest.fixture(params=PROFILES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def mounts(name: str) -> dict[str, dict[str, Any]]:
    return {volume["target"]: volume for volume in COMPOSE["services"][name]["volumes"]}


def test_whoever_does_not_ask_for_it_does_not_get_it(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["profiles"] == [PROFILES[name]]
    assert "depends_on" not in service, "or it would start what it watches"
    for other in COMPOSE["services"].values():
        assert name not in other.get("depends_on", {})


def test_it_is_guarded_and_limited_as_the_service_is(name: str) -> None:
    service, cpu = COMPOSE["services"][name], COMPOSE["services"]["cpu"]
    for guard in ("read_only", "cap_drop", "security_opt", "init", "logging", "restart"):
        assert service[guard] == cpu[guard]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["tmpfs"][0].startswith("/tmp:size=")
    assert "privileged" not in service
    assert "user" not in service, "the images have users of their own"


def test_its_image_is_pinned_to_a_version(name: str) -> None:
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", COMPOSE["services"][name]["image"])


def test_its_files_are_in_the_tree_and_it_cannot_change_them(name: str) -> None:
    for target, mount in mounts(name).items():
        if mount["type"] == "volume":
            assert mount["source"] in COMPOSE["volumes"]
            continue
        assert (mount["read_only"], mount["bind"]) == (True, {"create_host_path": False})
        if not mount["source"].startswith("$"):
            assert (ROOT / mount["source"]).exists(), target


def test_it_is_reached_from_this_host_alone_unless_told_otherwise(name: str) -> None:
    ports = COMPOSE["services"][name].get("ports", [])
    if name == "collector":
        assert ports == []
    else:
        port = PORTS[name]
        assert ports == [f"${{MONITORING_HOST:-127.0.0.1}}:${{{name.upper()}_PORT:-{port}}}:{port}"]


def test_prometheus_finds_the_services_by_their_names_and_asks_no_search_domain() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    serving = [
        name for name, service in COMPOSE["services"].items() if "marey-health" in str(service.get("healthcheck"))
    ]
    assert found["names"] == [f"{name}." for name in serving]
    assert (found["type"], found["port"]) == ("A", Settings.model_fields["port"].default)
    assert job["authorization"]["credentials_file"] == "marey.key"
    key = mounts("prometheus")["/etc/prometheus/marey.key"]
    assert key["source"] == "${PROMETHEUS_KEY:-/dev/null}"
    assert [f"/etc/prometheus/{each.partition('/')[0]}" for each in config["rule_files"]] == ["/etc/prometheus/rules"]
    assert "/etc/prometheus/rules" in mounts("prometheus")


def test_grafana_has_no_account_until_a_password_is_set() -> None:
    ini = configparser.ConfigParser(comment_prefixes=(";",))
    ini.read(MONITORING / "grafana" / "grafana.ini", encoding="utf-8")
    assert ini["security"]["disable_initial_admin_creation"] == ini["auth"]["disable_login_form"] == "true"
    assert ini["auth.basic"]["enabled"] == "false"
    assert ini["auth.anonymous"]["org_role"] == "Viewer"
    assert "admin_password" not in ini["security"]
    environment = COMPOSE["services"]["grafana"]["environment"]
    assert environment == {
        "GF_SECURITY_ADMIN_PASSWORD": "${GRAFANA_PASSWORD:-}",
        "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "${GRAFANA_PASSWORD:+false}",
        "GF_AUTH_DISABLE_LOGIN_FORM": "${GRAFANA_PASSWORD:+false}",
        "GF_AUTH_BASIC_ENABLED": "${GRAFANA_PASSWORD:+true}",
    }
    assert re.search(r"^#GRAFANA_PASSWORD=$", EXAMPLE, re.MULTILINE)


def test_grafana_is_given_the_dashboard_and_the_data_sources_that_there_are() -> None:
    folder = MONITORING / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "marey.yml").read_text(encoding="utf-8"))["datasources"]
    found = {source["type"]: source["url"] for source in sources}
    assert found == {"prometheus": "http://prometheus:9090", "jaeger": "http://jaeger:16686"}
    scrape = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))["global"]["scrape_interval"]
    assert sources[0]["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load((folder / "dashboards" / "marey.yml").read_text(encoding="utf-8"))["providers"]
    assert provider["options"]["path"] in mounts("grafana")
    ini = (MONITORING / "grafana" / "grafana.ini").read_text(encoding="utf-8")
    assert f"default_home_dashboard_path = {provider['options']['path']}/{DASHBOARD['uid']}.json" in ini
