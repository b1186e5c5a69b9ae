"""What INT8 costs and saves, model by model: what the issue of an accuracy lost without a word is answered with."""

from __future__ import annotations

from collections.abc import Sequence

from models.table.cells import NONE, points, table
from models.table.entry import Entry, Quantized


def int8_table(entries: Sequence[Entry]) -> list[str]:
    """A row for each model whose INT8 was searched on val."""
    header = [
        "model",
        "val (clips)",
        "ranges and repairs",
        "divergence: MinMax → taken",
        "layers in float",
        "weights, of float32",
        "loss on test in points (n)",
        "same top-1 (n)",
        "ms float / INT8",
        "M multiply-adds",
        "searched in",
        "gate",
    ]
    rows = [_row(entry, entry.quantized) for entry in entries if entry.quantized is not None]
    return table(header, rows) if rows else []


def _row(entry: Entry, found: Quantized) -> list[str]:
    figure = entry.figure("int8") or entry.figure("fp32")
    return [
        f"`{entry.id}`",
        f"{found.split} ({found.clips:,})",
        found.method,
        f"{found.plain_kl:.2g} → {found.kl:.2g}",
        f"{found.in_float} of {found.eligible}",
        f"{found.share:.0%}",
        NONE if found.loss is None or figure is None else f"{points(found.loss)} ({figure.n:,})",
        NONE if found.agreement is None else f"{found.agreement:.1%} ({found.agreement_n:,})",
        _faster(found.float_ms, found.int8_ms),
        f"{found.macs / 1e6:.3g}",
        f"{found.seconds:.0f} s",
        {True: "accepted", False: "refused", None: NONE}[found.accepted],
    ]


def _faster(float_ms: float | None, int8_ms: float | None) -> str:
    if float_ms is None or int8_ms is None:
        return NONE
    return f"{float_ms:.3g} / {int8_ms:.3g} ({float_ms / int8_ms:.1f} ×)"
