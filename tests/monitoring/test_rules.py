"""The rules as a file: every alert tells what is wrong, by which limit, and what to do, and has its section in the runbook."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.monitoring.queries import ALERTS, MONITORING, RECORDED, ROOT, Query, of_dashboard, of_rules, selectors

DOCS = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
TESTS = yaml.safe_load((MONITORING / "rules" / "marey.test.yml").read_text(encoding="utf-8"))["tests"]
# What they look at is the instance itself.
OF_ONE = {"MareyAbsent", "MareyDown"}


@pytest.fixture(params=ALERTS)
def alert(request: pytest.FixtureRequest) -> dict[str, Any]:
    return ALERTS[request.param]


@pytest.mark.parametrize("query", of_rules(), ids=lambda query: query.where)
def test_a_rule_is_promql_and_sums_over_replicas(query: Query) -> None:
    found = list(selectors(query.parsed))
    assert query.where in OF_ONE or all(summed for _, summed in found)
    assert "replica" not in query.text


def test_an_alert_waits_and_says_how_grave_it_is_and_names_value_limit_and_remedy(alert) -> None:
    assert re.fullmatch(r"\d+[mh]", alert["for"])
    assert alert["labels"]["severity"] in ("critical", "warning")
    told = alert["annotations"]
    assert set(told) == {"summary", "description", "runbook"}
    assert told["summary"].endswith(".")
    if alert["alert"] != "MareyAbsent":  # of what is not there, there is no value
        assert "$value" in told["description"]
    assert re.search(r"limit|must|above|objective", told["description"])
    assert len(told["description"].split(". ")) >= 2, "what is, and what to do"


def test_an_alert_has_its_section_in_the_runbook_and_every_section_its_alert(alert) -> None:
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert page == "docs/monitoring.md"
    sections = re.findall(r"^### (Marey\w+)$", DOCS, re.MULTILINE)
    assert sections == list(ALERTS), "in the order of the rules"
    assert anchor in {section.lower() for section in sections}, "as GitHub makes anchors"


def test_every_alert_is_tested_to_fire_and_to_be_silent() -> None:
    *apart, quiet = (
        [(each["alertname"], each.get("exp_alerts", [])) for each in test["alert_rule_test"]] for test in TESTS
    )
    assert [name for test in apart for name, fires in test if fires] == list(ALERTS)
    assert quiet == [(name, []) for name in ALERTS], "of a service that nobody asks"


def test_beside_what_fires_an_alert_stands_what_must_not_fire_it() -> None:
    for test in TESTS[:-1]:
        series = " ".join(each["series"] for each in test["input_series"])
        named = set(re.findall(r'(?:job|instance|model|uuid)="([^"]+)"', series)) - {"marey"}
        fires = [each for each in test["alert_rule_test"] if each.get("exp_alerts")]
        assert len(named) > 1 or fires[0]["alertname"] == "MareyAbsent"


def test_a_rule_that_is_recorded_is_used() -> None:
    used = set().union(*(query.metrics for query in (*of_rules(), *of_dashboard())))
    assert used >= RECORDED
