"""What quantization noted, as tables and bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest

from models.judging.assess import note
from models.judging.plots import sensitivity_figure
from models.judging.quantized import DRAWN, method_lines, plan_lines, recurrent_lines, sensitivity_lines
from tests.conftest import make_color_bundle


def sensitivity(count: int, *, ratio: float = 0.5) -> dict[str, Any]:
    rows = [
        {
            "node": f"block{place}/Conv",
            "kind": "Conv",
            "kl": 0.1 * ratio**place,
            "feature_cosine": 0.99 if place else None,
            "top1_agreement": 0.95,
        }
        for place in range(count)
    ]
    return {"clips": 40, "frames": 640, "split": "val", "rows": rows}


def noted() -> dict[str, Any]:
    return {
        "skipped": ["block0/Conv"],
        "sensitivity": sensitivity(12),
        "methods": [
            {
                "method": "minmax",
                "equalized": False,
                "bias_corrected": True,
                "kl": 0.00312,
                "top1_agreement": 0.97,
                "feature_cosine": None,
                "accuracy": None,
                "taken": True,
            }
        ],
        "trial": {"split": "val", "clips": 40, "frames": 640, "accuracy": 0.8, "allowed_drop": 0.025},
        "nodes_in_float": 2,
        "nodes_eligible": 49,
        "plan": [
            {
                "float_nodes": [f"n{each}" for each in range(count)],
                "drop": None,
                "top1_agreement": 0.9,
                "kl": 0.01,
                "frames_per_s": 120.0,
                "float_frames_per_s": 60.0,
                "taken": count == 1,
            }
            for count in (0, 1, 5)
        ],
        "recurrent": {
            "bytes": 2**20,
            "float_bytes": 2**22,
            "ratio": 0.25,
            "top1_agreement": 1.0,
            "max_probability_difference": 0.0123,
            "sentence": "Weights in 8 bits.",
        },
    }


def test_each_part_is_a_table_with_what_it_was_measured_on() -> None:
    found = noted()
    methods = "\n".join(method_lines(found))
    assert "| minmax    | no        | yes            | 0.0031 " in methods
    assert "Tried on 40 clips (640 frames) of val." in methods
    nodes = "\n".join(sensitivity_lines(found))
    assert "on 40 clips (640 frames) of val; the 10 worst of 12 are in the table." in nodes
    assert nodes.count("| float ") == 1
    assert "(sensitivity.png)" in nodes
    plan = "\n".join(plan_lines(found))
    assert "| none " in plan
    assert "| `n0` … `n4` (5) |" in plan
    assert "2.00 ×" in plan
    assert plan.endswith(
        "2 of 49 nodes stay in float. Float names 80.0% of the 40 clips of val right; of this INT8 may lose 2.5 points."
    )
    for name in ("nodes_in_float", "trial"):
        del found[name]
    assert plan_lines(found)[-1].startswith("| `n0` … `n4` (5) |"), "older reports have the table alone"
    assert "Tried on" not in "\n".join(method_lines(found))
    assert recurrent_lines(found)[0] == "Weights in 8 bits."
    assert "1.00 in place of 4.00 MiB (25.0%)" in recurrent_lines(found)[2]


@pytest.mark.parametrize("lines", [method_lines, sensitivity_lines, plan_lines, recurrent_lines])
def test_what_was_not_noted_has_no_section(lines: Any) -> None:
    assert lines({}) == []
    assert lines({"sensitivity": None, "recurrent": None}) == []


def test_the_worst_nodes_are_bars_and_those_in_float_have_another_colour() -> None:
    found = sensitivity(DRAWN + 5)
    (axes,) = sensitivity_figure(found, kept=["block1/Conv"]).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([row["kl"] for row in found["rows"][:DRAWN]])
    colors = [bar.get_facecolor() for bar in axes.patches]
    assert colors[1] != colors[0] == colors[2]
    assert axes.get_xscale() == "log"
    assert axes.get_yticklabels()[0].get_text() == "block0/Conv"
    bottom, top = axes.get_ylim()
    assert bottom > top, "the worst stands on top"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["runs in INT8", "kept in float"]


def test_alike_nodes_stand_on_a_linear_axis_and_nodes_that_change_nothing_are_drawn() -> None:
    found = sensitivity(4, ratio=0.8)
    (axes,) = sensitivity_figure(found).axes
    assert axes.get_xscale() == "linear"
    assert axes.get_legend() is None
    for row in found["rows"]:
        row["kl"] = 0.0
    assert len(sensitivity_figure(found).axes[0].patches) == 4


def test_the_bars_are_drawn_into_a_bundle_without_labelled_data_too(tmp_path: Path) -> None:
    bundle = note(make_color_bundle(tmp_path / "color"), {"quantization": noted()})
    assert cv2.imread(str(bundle.path / "sensitivity.png")) is not None
    text = (bundle.path / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 1
    assert "Which INT8" in text
