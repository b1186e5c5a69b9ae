"""The path of a trace: service, collector, Jaeger. Neither runs here, so that only the joints of their files are looked at."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.monitoring.queries import MONITORING, ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def config(name: str) -> dict[str, Any]:
    return yaml.safe_load((MONITORING / f"{name}.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["collector", "jaeger"])
def test_a_pipeline_is_made_of_what_is_declared_and_nothing_is_declared_for_nobody(name: str) -> None:
    told = config(name)
    pipeline = told["service"]["pipelines"]["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) == set(told[kind])
    assert set(told["service"].get("extensions", [])) == set(told.get("extensions", {}))


@pytest.mark.parametrize("name", ["collector", "jaeger"])
def test_it_reads_the_file_that_is_mounted(name: str) -> None:
    service = COMPOSE["services"][name]
    (mount,) = service["volumes"]
    assert service["command"] == [f"--config={mount['target']}"]
    assert mount["source"] == f"./docker/monitoring/{name}.yml"


def test_a_trace_finds_its_way_from_the_service_to_the_page_that_shows_it() -> None:
    collector, jaeger = config("collector"), config("jaeger")
    sent_to = COMPOSE["services"]["cpu"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    port = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    assert sent_to == f"${{OTEL_EXPORTER_OTLP_ENDPOINT:-http://collector:{port}}}"
    port = jaeger["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    assert collector["exporters"]["otlp"]["endpoint"] == f"jaeger:{port}"
    assert collector["service"]["pipelines"]["traces"]["processors"][0] == "memory_limiter"
    extensions = jaeger["extensions"]
    store = jaeger["exporters"]["jaeger_storage_exporter"]["trace_storage"]
    assert store == extensions["jaeger_query"]["storage"]["traces"]
    assert store in extensions["jaeger_storage"]["backends"]
    shown = extensions["jaeger_query"]["http"]["endpoint"].rpartition(":")[2]
    assert COMPOSE["services"]["jaeger"]["ports"][0].endswith(f":{shown}")
