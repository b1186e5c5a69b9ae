"""A real Prometheus scrapes a real service in full work, beside a stand-in of the GPU driver: every panel has something to show."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import keys
from service.bundle.frame_statistics import statistics_of
from service.drift import SAMPLE
from tests.api.test_inputs import DARK, quantized
from tests.conftest import Served, make_color_bundle
from tests.monitoring.prometheus import Prometheus, until, watching
from tests.monitoring.queries import ROOT, Query, of_dashboard, of_rules
from tests.monitoring.traffic import CLIPS, Traffic

Program = Callable[[str], str]
QUERIES = {query.where: query for query in of_dashboard()}
# As long as the traffic lasts at most; two scrapes under it, 5 s apart, are what rates need.
PATIENCE_S = 45.0
# Queries that cannot show anything here, each with its reason: none.
SILENT: dict[str, str] = {}


@dataclass
class Watched:
    """`shown`: what each query of the dashboard has shown, by its name."""

    address: str
    prometheus: Prometheus
    shown: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with NVML's stand-in; see tests/standin/README.md."""
    folder = tmp_path_factory.mktemp("libnvml")
    source = ROOT / "tests" / "standin" / "libnvml.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


def address(served: Served) -> str:
    return httpx.URL(served.url).netloc.decode()


@pytest.fixture(scope="module")
def watched(program: Program, serve: Any, driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A service that asks for keys, in full work until every query has shown something, or `PATIENCE_S` are over."""
    binary, folder = program("prometheus"), tmp_path_factory.mktemp("watched")
    path = folder / "keys"
    mine, scraper, hasty = (
        keys.add(path, name, rate=rate) for name, rate in (("mine", None), ("prometheus", None), ("hasty", 0.1))
    )
    bundles = [
        make_color_bundle(folder / "color"),
        quantized(make_color_bundle(folder / "bright", name="bright"), statistics_of(DARK)),
    ]
    environment = {
        "MAREY_KEYS": str(path),
        "MAREY_MAX_REQUESTS": "4",
        "MAREY_LOG_LEVEL": "error",
        "LD_LIBRARY_PATH": str(driver),
        "STANDIN_GPUS": "2",
    }
    with serve(*(str(bundle.path) for bundle in bundles), **environment) as served:
        traffic = Traffic(served, folder, key=mine, hasty=hasty, limit=4)
        for _ in range(-(-2 * SAMPLE // CLIPS)):
            traffic.clips()
        etc = folder / "etc"
        etc.mkdir()
        with watching(binary, etc, targets=[address(served)], key=f"{scraper}\n") as prometheus:
            made = Watched(address(served), prometheus)
            deadline = time.monotonic() + PATIENCE_S
            while len(made.shown) < len(QUERIES) - len(SILENT) and time.monotonic() < deadline:
                traffic.round()
                traffic.clips()
                for query in QUERIES.values():
                    if query.where not in made.shown and (found := shown(prometheus, query)):
                        made.shown[query.where] = found
            yield made


def shown(prometheus: Prometheus, query: Query) -> list[tuple[dict[str, str], float]]:
    """What a panel can draw: a quantile of nothing is no number."""
    return [(labels, value) for labels, value in prometheus.series(query.text) if not math.isnan(value)]


@pytest.mark.parametrize("where", QUERIES)
def test_a_query_of_the_dashboard_shows_something_and_has_what_its_legend_names(watched: Watched, where: str) -> None:
    found = watched.shown.get(where, [])
    assert bool(found) == (where not in SILENT), QUERIES[where].text
    for labels, _ in found:
        assert labels.keys() >= QUERIES[where].legend


HAPPENED: dict[tuple[str, str], set[str]] = {
    ("Answers by status and code A", "code"): {
        "ok",
        "unsupported_media",
        "decode_failed",
        "overloaded",
        "rate_limited",
        "deadline_exceeded",
    },
    ("Refusals by reason A", "reason"): {"requests"},
    ("Median by stage A", "stage"): {"read", "decode", "preprocess", "queue", "encode", "head"},
    ("Mean batch A", "stage"): {"encoder", "head"},
    ("Models A", "precision"): {"int8", "fp32"},
    ("Inputs against INT8's calibration A", "of"): {"brightness", "contrast"},
    ("Temperature A", "gpu"): {"0", "1"},
    ("Slowed down A", "reason"): {"sw_power_cap", "hw_thermal_slowdown"},
    ("Alerts, pending and firing A", "alertname"): {"MareyGpuThrottled", "MareyInputsOutside"},
}


@pytest.mark.parametrize(("where", "label"), HAPPENED, ids=[where for where, _ in HAPPENED])
def test_what_has_happened_is_on_the_dashboard(watched: Watched, where: str, label: str) -> None:
    """Perhaps not at the first look: a rate takes two scrapes, an alert an evaluation."""

    def seen() -> set[str]:
        return {labels[label] for labels, _ in shown(watched.prometheus, QUERIES[where])}

    until(lambda: seen() >= HAPPENED[where, label], seen)


def test_figures_are_those_of_the_machine(watched: Watched) -> None:
    assert watched.shown["Ready A"] == watched.shown["Scraped A"] == [({}, 1)]
    assert {value for _, value in watched.shown["Temperature A"]} == {61}
    (of_memory,) = {value for labels, value in watched.shown["Memory A"] if labels["gpu"] == "0"}
    assert of_memory == 1 / 80
    outside = watched.shown["Inputs outside the calibration's range A"]
    assert {(labels["model"], value) for labels, value in outside} == {("bright", 1)}, "brighter than all that it knew"


def test_the_choices_above_the_dashboard_offer_what_there_is(watched: Watched) -> None:
    for label, wanted in (("job", {"marey"}), ("model", {"bright", "color"})):
        assert set(watched.prometheus.ask(f"label/{label}/values")) == wanted


def test_prometheus_evaluates_every_rule_without_an_error(watched: Watched) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in watched.prometheus.ask("rules")["groups"] for rule in group["rules"]]

    until(lambda: all(rule["health"] != "unknown" for rule in rules()), rules)
    found = {rule["name"]: (rule["health"], rule.get("lastError")) for rule in rules()}
    assert found == {query.where: ("ok", None) for query in of_rules()}


def test_a_key_is_needed_where_the_service_asks_for_one_and_none_where_it_does_not(
    watched: Watched, program: Program, served: Served, tmp_path: Path
) -> None:
    with watching(program("prometheus"), tmp_path, targets=[address(served), watched.address]) as prometheus:

        def health() -> dict[str, tuple[str, str]]:
            targets = prometheus.ask("targets")["activeTargets"]
            return {each["labels"]["instance"]: (each["health"], each["lastError"]) for each in targets}

        found = until(
            lambda: (said := health()) and all(state != "unknown" for state, _ in said.values()) and said, health
        )
    assert found[address(served)] == ("up", "")
    state, error = found[watched.address]
    assert state == "down"
    assert "401" in error
