"""`report.json` and, drawn from it alone, `report.md` and the confusion matrices as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.export.report.reading import how_it_was_read
from models.export.report.table import markdown_table, parts, steps, warnings

Report = dict[str, Any]

# Above this many classes neither axis labels nor a full matrix can be read.
READABLE_CLASSES = 30


def confusion_entry(matrix: NDArray[np.int64], labels: Sequence[str]) -> Report:
    """The whole matrix for few classes; for many, the pairs that were confused, most often first."""
    if len(labels) <= READABLE_CLASSES:
        return {"labels": list(labels), "matrix": matrix.tolist()}
    wrong = matrix - np.diag(np.diag(matrix))
    pairs = sorted(zip(*np.nonzero(wrong), strict=True), key=lambda pair: (-wrong[pair], pair))
    return {
        "confused": [
            {"truth": labels[truth], "predicted": labels[predicted], "count": int(wrong[truth, predicted])}
            for truth, predicted in pairs[:100]
        ]
    }


def confusion_png(matrix: NDArray[np.int64], labels: Sequence[str], *, title: str) -> bytes:
    """Truth down, prediction across: for few classes each cell's count and share of its row, for many a dot a confusion."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # 0.5 s that only a report pays
    from matplotlib.figure import Figure  # noqa: PLC0415

    few = len(labels) <= READABLE_CLASSES
    side = 2.5 + 0.55 * len(labels) if few else 6.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel="predicted", ylabel="true")
    if few:
        _draw_cells(axes, matrix, labels)
    else:
        _draw_dots(axes, matrix)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def _draw_cells(axes: Any, matrix: NDArray[np.int64], labels: Sequence[str]) -> None:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.figure.colorbar(drawn, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color)


def _draw_dots(axes: Any, matrix: NDArray[np.int64]) -> None:
    """Cells of a thousand classes are smaller than a pixel, and would be lost."""
    truth, predicted = np.nonzero(matrix)
    right = truth == predicted
    for name, chosen, color in (("right", right, "tab:blue"), ("wrong", ~right, "tab:red")):
        count = int(matrix[truth[chosen], predicted[chosen]].sum())
        axes.scatter(predicted[chosen], truth[chosen], s=5, color=color, label=f"{name} ({count})")
    axes.set(xlim=(-10, len(matrix) + 10), ylim=(len(matrix) + 10, -10), aspect="equal")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)


def markdown(report: Mapping[str, Any], *, full: bool = False) -> str:
    """The report for a person: each figure with its n, split and interval. `full`: with every layer, as in the file."""
    bundle = report.get("bundle", {"name": "not judged yet", "version": ""})
    export = report.get("export", {})
    lines = [f"# {bundle['name']} {bundle['version']}".rstrip(), ""]
    if bundle.get("description"):
        lines += [bundle["description"], ""]
    for title, section in (
        ("Accuracy", _accuracy(report)),
        ("Turned and moved", _robustness(report)),
        ("INT8 against float", _verdict(report)),
        ("Latency", _latency(report)),
        ("Size", _size(report)),
        ("How it was read", how_it_was_read(export, report.get("read", {}))),
        ("What became what", parts(export, full=False) or _graph(report)),
        ("Step by step on a GPU", steps(export)),
        ("What INT8 may hurt", _hurts(report)),
        ("Parity of the export", _parity(report)),
        ("Confusion", [f"![{name}]({name})" for name in report.get("confusion_png", [])]),
        ("Every layer", parts(export, full=True) if full else []),
        ("Made by", [f"`{report['command']}`"] if report.get("command") else []),
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
    return markdown_table(["engine", "split (n)", "accuracy [95 % Wilson]", "top-5", "macro-F1"], rows) if rows else []


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
