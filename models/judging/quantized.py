"""What quantization noted in its report, for a person: methods that were tried, what each node costs, what stays in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.export.report.table import markdown_table

PICTURE = "sensitivity.png"
# So many of the worst are drawn; the table names fewer.
DRAWN = 25
_NAMED = 10


def method_lines(quantization: Mapping[str, Any]) -> list[str]:
    """The calibrations that were tried, and the one that was taken."""
    rows = [
        [
            row["method"],
            _yes(row["equalized"]),
            _yes(row["bias_corrected"]),
            _number(row["kl"]),
            f"{row['top1_agreement']:.1%}",
            _cosine(row.get("feature_cosine")),
            "–" if row.get("accuracy") is None else f"{row['accuracy']:.1%}",
            "taken" if row["taken"] else "",
        ]
        for row in quantization.get("methods", [])
    ]
    if not rows:
        return []
    titles = [
        "ranges by",
        "equalized",
        "bias corrected",
        "KL(float‖INT8)",
        "same top-1",
        "cosine of features",
        "accuracy",
        "",
    ]
    trial = quantization.get("trial")
    told = f"Tried on {trial['clips']} clips ({trial['frames']} frames) of {trial['split']}." if trial else ""
    return [*markdown_table(titles, rows), *(["", told] if told else [])]


def sensitivity_lines(quantization: Mapping[str, Any]) -> list[str]:
    """The worst nodes as a table, more of them as bars."""
    found = quantization.get("sensitivity")
    if not found or not found["rows"]:
        return []
    kept = set(quantization.get("skipped", []))
    rows = [
        [
            f"`{row['node']}`",
            row["kind"],
            _number(row["kl"]),
            f"{row['top1_agreement']:.1%}",
            _cosine(row.get("feature_cosine")),
            "float" if row["node"] in kept else "INT8",
        ]
        for row in found["rows"][:_NAMED]
    ]
    titles = ["node", "kind", "KL(float‖INT8)", "same top-1", "cosine of features", "runs in"]
    total = len(found["rows"])
    told = f"Each node alone in INT8, on {found['clips']} clips ({found['frames']} frames) of {found['split']}"
    told += f"; the {_NAMED} worst of {total} are in the table." if total > _NAMED else "."
    return [told, "", *markdown_table(titles, rows), "", f"![Sensitivity of nodes to INT8]({PICTURE})"]


def plan_lines(quantization: Mapping[str, Any]) -> list[str]:
    """What float nodes buy and cost, and the choice."""
    rows = [
        [
            _nodes(row["float_nodes"]),
            "–" if row.get("drop") is None else f"{100 * row['drop']:.1f} points",
            f"{row['top1_agreement']:.1%}",
            _number(row["kl"]),
            f"{row['frames_per_s']:.0f}",
            f"{row['frames_per_s'] / row['float_frames_per_s']:.2f} ×" if row["float_frames_per_s"] else "–",
            "taken" if row["taken"] else "",
        ]
        for row in quantization.get("plan", [])
    ]
    titles = ["kept in float", "loss of accuracy", "same top-1", "KL(float‖INT8)", "frames/s", "of float's speed", ""]
    told = []
    if "nodes_in_float" in quantization:
        told.append(f"{quantization['nodes_in_float']} of {quantization['nodes_eligible']} nodes stay in float.")
    trial = quantization.get("trial", {})
    if "allowed_drop" in trial:
        told.append(
            f"Float names {trial['accuracy']:.1%} of the {trial['clips']} clips of {trial['split']} right; of this INT8 may lose "
            f"{100 * trial['allowed_drop']:.1f} points."
        )
    return [*markdown_table(titles, rows), *(["", " ".join(told)] if told else [])] if rows else []


def recurrent_lines(quantization: Mapping[str, Any]) -> list[str]:
    """What became of the weights of the recurrent layers."""
    found = quantization.get("recurrent")
    if not found:
        return []
    return [
        found["sentence"],
        "",
        f"{found['bytes'] / 2**20:.2f} in place of {found['float_bytes'] / 2**20:.2f} MiB ({found['ratio']:.1%}); same top-1 "
        f"{found['top1_agreement']:.1%}; probabilities move by at most {found['max_probability_difference']:.2g}.",
    ]


def _nodes(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(f"`{name}`" for name in names) or "none"
    return f"`{names[0]}` … `{names[-1]}` ({len(names)})"


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _number(value: float) -> str:
    return f"{value:.2g}"


def _cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.5f}"
