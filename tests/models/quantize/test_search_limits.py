"""How far the search goes, and when it may take over what an earlier one found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from models.quantize.search import Plan, Row, _Searching
from models.quantize.trial import Trial
from tests.models.quantize.drawn import Drawing, frames_of, mean_head
from tests.models.quantize.test_search import _Needing, fewest


@pytest.mark.parametrize(("nodes", "enough"), [(20, 10), (10, 5), (27, 12), (27, 13), (60, 25)])
def test_up_to_half_of_the_nodes_are_tried(nodes: int, enough: int) -> None:
    device = _Needing(tuple(f"n{number}" for number in range(nodes)), enough)
    holding = [plan for plan, found in fewest(device) if found.drop == 0]
    assert holding
    assert min(len(plan.floats) for plan in holding) == enough


def test_a_table_is_not_reused_when_one_of_two_readers_of_a_tensor_is_skipped() -> None:
    drawing = Drawing(seed=2)
    source = drawing.relu(drawing.conv("planes", 8, name="conv1"), name="act1")
    one, other = drawing.conv(source, 8, name="left"), drawing.conv(source, 8, name="right")
    drawing.flat(drawing.node("Concat", one, other, name="both", axis=1), size=4, width=64)
    encoder = drawing.model(features=["N", 64])
    weights = np.random.default_rng(0).normal(0, 1, (64, 3)).astype(np.float32)
    head = mean_head(weights, np.zeros(3, np.float32)).SerializeToString()
    trial = Trial("val", tuple(frame[None] for frame in frames_of(8)), np.arange(8) % 3)

    def alone(skip: Sequence[str], known: Row) -> Row:
        searching = _Searching(encoder, head, rows=frames_of(16), trial=trial, skip=skip, max_drop=0.01, known=known)
        return searching._alone(searching._plain, Plan())

    table = alone((), {})
    assert {row["node"] for row in alone(("right",), table)["rows"]} == {"conv1/Conv", "left/Conv"}
