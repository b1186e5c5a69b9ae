"""The dashboard as a file: whole, legible, and none of its queries takes one series for granted."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from tests.monitoring.queries import DASHBOARD, PANELS, ROOT, Query, of_dashboard, selectors

TITLES = [panel["title"] for panel in PANELS]


@pytest.fixture(params=PANELS, ids=TITLES)
def panel(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def test_it_has_a_row_for_everything_that_can_go_wrong() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "At a glance",
        "Requests",
        "Latency by stage",
        "Queue and refusals",
        "Device and batches",
        "Decoders, memory, spool, jobs, streams",
        "Models",
        "Drift",
        "GPU",
    ]
    assert len(set(TITLES)) == len(TITLES)
    described = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert re.findall(r"^- \*\*(.+?)\.\*\*", described, re.MULTILINE) == rows


def test_a_panel_says_what_it_shows_in_which_unit_and_asks_the_data_source_that_was_chosen(panel) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for asked in (panel, *panel["targets"]):
        assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_no_panel_lies_upon_another_or_beyond_the_edge() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_data_source_the_job_the_instances_and_the_models_can_be_chosen() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", "model"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    for name in ("instance", "model"):
        assert (variables[name]["includeAll"], variables[name]["allValue"]) == (True, ".*")


@pytest.mark.parametrize("query", of_dashboard(), ids=lambda query: query.where)
def test_a_query_is_promql_and_sums_over_instances_and_replicas(query: Query) -> None:
    found = list(selectors(query.parsed))
    assert all(summed for _, summed in found), "of several replicas it would show a line each, all under one name"
    for selector, _ in found:
        matched = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
        assert "replica" not in matched
        if selector.name.startswith("marey_"):
            assert {"job": "marey", "instance": ".*"}.items() <= matched.items(), "the choice above holds for all"
            assert not selector.name.endswith("_bucket") or "by (le" in query.text, "or quantiles of nothing"
