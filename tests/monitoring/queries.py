"""The PromQL of the dashboard and the rules, as data: what is asked where, and which metrics it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docker" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana" / "dashboards" / "marey.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((MONITORING / "rules" / "marey.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}

# As Grafana fills them in where nothing is chosen; its interval is four scrapes or more.
VARIABLES = {"$job": "marey", "$instance": ".*", "$model": ".*", "$__rate_interval": "1m"}


@dataclass(frozen=True, slots=True)
class Query:
    """`where`: the panel and the query in it, or the rule; `legend`: the labels that its legend shows."""

    where: str
    text: str
    legend: frozenset[str] = frozenset()

    @property
    def parsed(self) -> Any:
        """Raises ValueError where it is no PromQL."""
        return promql_parser.parse(self.text)

    @property
    def metrics(self) -> set[str]:
        return {selector.name for selector, _ in selectors(self.parsed)}


def filled(text: str) -> str:
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text


def of_dashboard() -> list[Query]:
    return [
        Query(
            f"{panel['title']} {target['refId']}",
            filled(target["expr"]),
            frozenset(re.findall(r"{{(\w+)}}", target["legendFormat"])) - {"le"},
        )
        for panel in PANELS
        for target in panel["targets"]
    ]


def of_rules() -> list[Query]:
    return [Query(rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES]


def selectors(node: Any, *, summed: bool = False) -> Iterator[tuple[Any, bool]]:
    """Every selector of a parsed expression, and whether something sums over the labels that it leaves open."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node, summed
        return
    summed = summed or isinstance(node, promql_parser.AggregateExpr)
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield from selectors(child, summed=summed)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child, summed=summed)
