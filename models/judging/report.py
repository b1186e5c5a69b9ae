"""`report.md`, drawn from `report.json` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.export.report.reading import how_it_was_read
from models.export.report.table import markdown_table, parts, steps, warnings
from models.judging.flips import flip_lines
from models.judging.per_class import class_lines
from models.judging.quantized import method_lines, plan_lines, recurrent_lines, sensitivity_lines
from models.judging.reliability import reliability_lines

Report = dict[str, Any]

# An interval of accuracy that is wider than this is said to be wide.
_WIDE = 0.1


def markdown(report: Mapping[str, Any], *, full: bool = False) -> str:
    """The report for a person: each figure with its n, split and interval. `full`: with every layer, as in the file."""
    bundle = report.get("bundle", {"name": "not judged yet", "version": ""})
    export, quantization = report.get("export", {}), report.get("quantization", {})
    lines = [f"# {bundle['name']} {bundle['version']}".rstrip(), ""]
    if bundle.get("description"):
        lines += [bundle["description"], ""]
    for title, section in (
        ("Accuracy", _accuracy(report)),
        ("Turned and moved", _robustness(report)),
        ("INT8 against float", _verdict(report)),
        *_compared(report),
        ("Confidence", reliability_lines(report.get("reliability", []))),
        ("Latency", _latency(report)),
        ("Size", _size(report)),
        ("Which INT8", method_lines(quantization)),
        ("What stays in float", plan_lines(quantization)),
        ("Sensitivity", sensitivity_lines(quantization)),
        ("Recurrent layers", recurrent_lines(quantization)),
        ("How it was read", how_it_was_read(export, report.get("read", {}))),
        ("What became what", parts(export, full=False) or _graph(report)),
        ("Step by step on a GPU", steps(export)),
        ("What INT8 may hurt", _hurts(report)),
        ("Parity of the export", _parity(report)),
        ("Confusion", [f"![{name}]({name})" for name in report.get("confusion_png", [])]),
        ("Made by", [f"`{report['command']}`"] if report.get("command") else []),
        ("Every layer", parts(export, full=True) if full else []),
    ):
        if section:
            lines += [f"## {title}", "", *section, ""]
    return "\n".join(lines)


def _accuracy(report: Mapping[str, Any]) -> list[str]:
    rows = []
    for figure in report.get("accuracy", []):
        low, high = figure["accuracy_interval"]
        top5 = figure.get("top5_accuracy")
        rows.append(
            [
                f"{figure['engine']} {figure['precision']}",
                f"{figure['split']} ({figure['n']})",
                f"{figure['accuracy']:.1%} [{low:.1%}, {high:.1%}]",
                "–" if top5 is None else f"{top5:.1%}",
                f"{figure['macro_f1']:.3f}",
            ]
        )
    table = markdown_table(["engine", "split (n)", "accuracy [95 % Wilson]", "top-5", "macro-F1"], rows) if rows else []
    return [*table, *_wide(report)]


def _wide(report: Mapping[str, Any]) -> list[str]:
    """What a small n means, for each split that is one."""
    widest: dict[tuple[str, int], float] = {}
    for figure in report.get("accuracy", []):
        low, high = figure["accuracy_interval"]
        split = (figure["split"], figure["n"])
        widest[split] = max(widest.get(split, 0.0), high - low)
    return [
        line
        for (split, n), width in widest.items()
        if width > _WIDE
        for line in (
            "",
            f"n = {n} on {split} is small: an accuracy may be anywhere in an interval {100 * width:.0f} points wide.",
        )
    ]


def _compared(report: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """For each engine and split that was judged, class by class, and the clips on which INT8 and float differ."""
    found = report.get("comparison", [])
    sections = []
    for row in found:
        of = "" if len(found) == 1 else f": {row['engine']}, {row['split']}"
        if "difference" in row:
            sections.append((f"Flips{of}", flip_lines(row["difference"], pictured=row.get("pictured", False))))
        sections.append((f"Class by class{of}", class_lines(row["classes"], split=row["split"])))
    return sections


def _robustness(report: Mapping[str, Any]) -> list[str]:
    rows = []
    for figure in report.get("robustness", []):
        low, high = figure["accuracy_interval"]
        less, more = figure["difference_interval"]
        rows.append(
            [
                f"{figure['engine']} {figure['precision']}",
                f"{figure['split']} ({figure['n']})",
                figure["changed"],
                f"{figure['accuracy']:.1%} [{low:.1%}, {high:.1%}]",
                f"{figure['difference']:+.1%} [{less:+.1%}, {more:+.1%}]",
            ]
        )
    titles = ["engine", "split (n)", "frames", "accuracy [95 % Wilson]", "against the same as they are [95 %]"]
    return markdown_table(titles, rows) if rows else []


def _verdict(report: Mapping[str, Any]) -> list[str]:
    if "verdict" in report:
        return [report["verdict"]["sentence"]]
    quantization = report.get("quantization", {})
    if "refused" in quantization:
        return [f"No INT8: {quantization['refused']}."]
    found = quantization.get("calibration_agreement")
    if found is None:
        return []
    if "label_agreement" in found:
        same = f"Same answer for {found['label_agreement']:.1%} of the labels (at 0.5)"
    else:
        same = f"Same top-1 on {found['top1_agreement']:.1%}"
    return [f"Not judged on labels. {same} of {found['clips']} calibration clips."]


def _hurts(report: Mapping[str, Any]) -> list[str]:
    """What the graph shows, and what the calibration frames did."""
    quantization = report.get("quantization", {})
    measured = [f"- {each}" for each in (*quantization.get("warnings", []), quantization.get("ranges")) if each]
    return [*warnings(report.get("export", {})), *measured]


def _latency(report: Mapping[str, Any]) -> list[str]:
    if "not_timed" in report:
        return [f"Not timed: {report['not_timed']}"]
    found = report.get("latency", [])
    if not found:
        return []
    first = found[0]
    whole = "clip_ms" in first
    columns = ("clip_ms",) if whole else ("encoder_1_ms", "encoder_16_ms", "head_ms")
    titles = (
        [f"clip of {first['clip_frames']} frames (ms)"]
        if whole
        else ["encoder, 1 frame (ms)", "encoder, 16 frames (ms)", f"head, {first['head_frames']} frames (ms)"]
    )
    rows = [
        [
            f"{each['engine']} {each['precision']} (float part {each['float_precision']})",
            *(f"{each[column]:.2f}" for column in columns),
        ]
        for each in found
    ]
    where = f"Medians of {first['runs']} runs in turn, {first['threads']} threads, {first['device']}."
    return [*markdown_table(["engine", *titles], rows), "", where]


def _size(report: Mapping[str, Any]) -> list[str]:
    rows = [[role, f"{size / 2**20:.2f} MiB"] for role, size in report.get("size_bytes", {}).items()]
    lines = markdown_table(["file", "size"], rows) if rows else []
    quantization = report.get("quantization", {})
    if "weights" in quantization:
        lines += ["", f"INT8: {quantization['weights']['ratio']:.1%} of 4 bytes a weight in the quantized network."]
    return lines


def _graph(report: Mapping[str, Any]) -> list[str]:
    parts = (("encoder", "encoder_layers"), ("head", "head_layers"))
    rows = [
        [part, f"{row['name']} ({row['class']})", f"{row['weights']:,}"]
        for part, key in parts
        for row in report.get("export", {}).get(key, [])
        if row["weights"] or part == "head"
    ]
    return markdown_table(["part", "layer", "weights"], rows) if rows else []


def _parity(report: Mapping[str, Any]) -> list[str]:
    rows = [
        [str(row["batch"]), str(row["frames"]), f"{row['probabilities']:.2g}"]
        for row in report.get("export", {}).get("parity", [])
    ]
    return markdown_table(["clips", "frames", "largest difference in probability"], rows) if rows else []
