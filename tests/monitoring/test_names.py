"""What is asked for is what the service exports, and what it exports is shown."""

from __future__ import annotations

import pytest

from tests.conftest import Served
from tests.monitoring.exported import of_collectors, of_scrape
from tests.monitoring.queries import RECORDED, Query, of_dashboard, of_rules

# Of Prometheus itself.
ITS_OWN = {"up", "ALERTS"}


@pytest.fixture(scope="module")
def exported(served: Served) -> set[str]:
    served.client.get("/limits")  # so that something was counted
    return of_scrape(served.client.get("/metrics").text) | of_collectors()


def asked_for(queries: list[Query]) -> set[str]:
    return set().union(*(query.metrics for query in queries))


def test_the_dashboard_and_the_rules_name_only_metrics_that_there_are(exported: set[str]) -> None:
    assert asked_for([*of_dashboard(), *of_rules()]) - ITS_OWN - RECORDED <= exported


def test_every_metric_is_on_the_dashboard_or_has_a_reason_not_to_be(exported: set[str]) -> None:
    missing = exported - asked_for(of_dashboard())
    reasons = {
        "when a counter began, for who reads counters without Prometheus": {
            name for name in exported if name.endswith("_created")
        },
        "a part of a histogram whose quantiles are shown": {
            f"{of}{part}" for of in ("marey_request_seconds", "marey_answer_probability") for part in ("_count", "_sum")
        },
        "what an alert holds another against": {"marey_spool_limit_bytes"} & asked_for(of_rules()),
    }
    assert missing == set().union(*reasons.values())
