"""The search finds the fewest layers, the same ones each time, and looks at each layer no more often than it must."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from models.errors import ExportRefused
from models.quantize.search import MIN_AGREEMENT, Plan, Search, _Searching, search
from models.quantize.trial import Fidelity, Trial
from tests.models.quantize.digits import Digits, hostile

_MARK = 7.0  # a divergence that no layer has


def searched(digits: Digits, *, count: int = 40, **changes: Any) -> Search:
    options = {"rows": digits.rows, "trial": digits.trial(count), "max_drop": 0.01, **changes}
    encoder = options.pop("encoder", None) or hostile(digits.encoder, 1)
    return search(encoder, options.pop("head", digits.head).SerializeToString(), **options)


@pytest.fixture(scope="module")
def once(capped_digits: Digits) -> Search:
    return searched(capped_digits)


def without_times(tables: dict[str, Any]) -> dict[str, Any]:
    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: bare(each) for name, each in value.items() if not name.endswith(("frames_per_s", "seconds"))}
        return [bare(each) for each in value] if isinstance(value, list) else value

    return dict(bare(tables))


def test_two_searches_find_the_same_to_the_byte(capped_digits: Digits, once: Search) -> None:
    again = searched(capped_digits)
    assert again.plan == once.plan
    assert again.plan.floats, "or less is shown"
    assert again.quantized.SerializeToString(deterministic=True) == once.quantized.SerializeToString(deterministic=True)
    assert without_times(again.tables) == without_times(once.tables)


def alone(digits: Digits, *, known: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The table of each layer alone, and what it was made from."""
    options = {"rows": digits.rows, "trial": digits.trial(40), "skip": (), **changes}
    encoder = options.pop("encoder", None) or hostile(digits.encoder, 1)
    head = options.pop("head", digits.head).SerializeToString()
    plan = options.pop("plan", Plan("Entropy"))
    searching = _Searching(encoder, head, max_drop=0.01, known=known or {}, **options)
    return searching._alone(searching._plain, plan)


@pytest.fixture(scope="module")
def marked(capped_digits: Digits) -> dict[str, Any]:
    """A table that was altered, so that it is known again."""
    table = alone(capped_digits)
    return {**table, "rows": [row | {"kl": _MARK} for row in table["rows"]]}


def test_what_each_layer_costs_is_not_measured_again_for_the_very_same(
    capped_digits: Digits, marked: dict[str, Any]
) -> None:
    assert alone(capped_digits, known=marked) == marked


@pytest.mark.parametrize("other", ["trial", "ranges", "head", "network", "plan", "skip"])
def test_it_is_measured_anew_where_something_differs(capped_digits: Digits, marked: dict[str, Any], other: str) -> None:
    changes: dict[str, Any] = {
        "trial": {"trial": brighter(capped_digits.trial(40))},
        "ranges": {"rows": capped_digits.rows // 2},
        "head": {"head": renamed(capped_digits)},
        "network": {"encoder": hostile(capped_digits.encoder, 1, factor=150)},
        "plan": {"plan": Plan("MSE")},
        "skip": {"skip": ("conv3",)},
    }[other]
    rows = alone(capped_digits, known=marked, **changes)["rows"]
    assert all(row["kl"] < _MARK for row in rows)
    assert len(rows) == (2 if other == "skip" else 3)


def test_a_search_takes_what_an_earlier_one_knew(capped_digits: Digits, once: Search) -> None:
    """By the table that it wrote itself."""
    table = once.tables["sensitivity"]
    told = {**table, "rows": [row | {"kl": _MARK} for row in table["rows"]]}
    found = searched(capped_digits, known=told)
    assert found.tables["sensitivity"] == told
    assert found.plan == once.plan


def brighter(trial: Trial) -> Trial:
    return Trial(trial.split, tuple(np.minimum(clip, 200) + 20 for clip in trial.clips), trial.truth)


def renamed(digits: Digits) -> Any:
    """Another head, if only by a name."""
    head = type(digits.head).FromString(digits.head.SerializeToString())
    for node in head.graph.node:
        if node.op_type == "Softmax":
            node.name = "another"
    return head


def test_what_was_told_to_skip_is_neither_tried_nor_int8(capped_digits: Digits) -> None:
    found = searched(capped_digits, skip=("conv2",), max_drop=0.0, count=16)
    assert {row["node"] for row in found.tables["sensitivity"]["rows"]} == {"conv1/Conv", "conv3/Conv"}
    assert found.plan.floats == ()
    assert found.holds
    assert (found.tables["nodes_in_float"], found.tables["nodes_eligible"]) == (1, 3)
    assert found.tables["trial"]["allowed_drop"] == 1 / 16, "one clip may always be lost"
    assert found.tables["trial"]["clips"] == found.tables["trial"]["frames"] == 16
    with pytest.raises(ExportRefused, match="no node 'conv9' to skip"):
        searched(capped_digits, skip=("conv9",))


def test_what_is_allowed_is_what_was_asked_for(once: Search) -> None:
    assert once.tables["trial"]["allowed_drop"] == 1 / 40, "0.01 is less than one clip"
    assert once.tables["trial"]["split"] == "val"


def test_a_head_without_a_recurrent_layer_has_no_table_of_one(once: Search) -> None:
    assert "recurrent" not in once.tables


@dataclass
class _Needing:
    """Stands for the device: a network holds with `enough` of the costliest nodes in float; each look is noted."""

    order: tuple[str, ...]
    enough: int
    lacking: str = "drop"

    def __post_init__(self) -> None:
        self.looked: list[int] = []

    def place(self, plan: Plan) -> Plan:
        return plan

    def compare(self, plan: Plan) -> Fidelity:
        assert plan.floats == self.order[: len(plan.floats)], "the costliest first"
        self.looked.append(len(plan.floats))
        holds = len(plan.floats) >= self.enough
        agreement = 1.0 if holds or self.lacking == "drop" else MIN_AGREEMENT - 0.01
        drop = 0.0 if holds or self.lacking == "agreement" else 0.3
        return Fidelity(0.1, agreement, 1.0, 0.9 - drop, drop, 1.0)


def fewest(device: _Needing) -> list[tuple[Plan, Fidelity]]:
    searching = _Searching.__new__(_Searching)
    searching._reference, searching._allowed = device, 0.01  # type: ignore[assignment]
    return searching._fewest(device, Plan("MSE", equalized=True), device.order)  # type: ignore[arg-type]


@pytest.mark.parametrize("lacking", ["drop", "agreement"])
@pytest.mark.parametrize("enough", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14])
def test_the_fewest_nodes_in_float_are_found(enough: int, lacking: str) -> None:
    device = _Needing(tuple(f"n{number}" for number in range(29)), enough, lacking)
    tried = fewest(device)
    holding = [plan for plan, found in tried if found.drop == 0 and found.top1_agreement == 1]
    best = min(holding, key=lambda plan: len(plan.floats))
    assert len(best.floats) == enough
    assert (best.method, best.equalized, best.bias_corrected) == ("MSE", True, False)
    assert [len(plan.floats) for plan, _ in tried] == device.looked
    assert len(device.looked) == len(set(device.looked)) <= 12, "no network is tried twice"


def test_no_more_than_half_of_the_nodes_are_tried_in_float() -> None:
    device = _Needing(tuple(f"n{number}" for number in range(29)), enough=29)
    assert all(found.drop > 0.01 for _, found in fewest(device))
    assert max(device.looked) == 14


@pytest.mark.parametrize("count", [1, 2])
def test_the_last_node_never_becomes_float(count: int) -> None:
    device = _Needing(tuple(f"n{number}" for number in range(count)), enough=count)
    fewest(device)
    assert device.looked == [1][: count - 1]


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (Plan(), "MinMax"),
        (Plan("Entropy", equalized=True), "Entropy, equalized"),
        (Plan("MSE", bias_corrected=True, floats=("a",)), "MSE, biases corrected"),
        (Plan("MSE", equalized=True, bias_corrected=True), "MSE, equalized, biases corrected"),
    ],
)
def test_a_plan_reads_as_the_manifest_tells_it(plan: Plan, text: str) -> None:
    assert str(plan) == text
