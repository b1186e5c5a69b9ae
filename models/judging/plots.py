"""The report's pictures. Each `*_figure` is drawn from what the report says, flips from the data, too; `png` makes a file of it."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from models.judging.flips import Tile
from models.judging.metrics import wilson
from models.judging.quantized import DRAWN

_FLOAT, _INT8 = "tab:blue", "tab:orange"
_RIGHT, _WRONG = "#1a7f37", "#b3261e"
# Above this ratio the small ones of linear bars cannot be seen.
_DECADES = 30
# Of the contact sheet, in inches: a tile, what its four lines take below it, the gap between two, and the least that a title needs.
_SIDE, _UNDER, _GAP, _LEAST = 2.7, 0.95, 0.15, 4.5
_TALLEST = 1.6
_NAME = 44
_LABEL = 22


def new_figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Any:
    """An empty matplotlib Figure of so many inches that needs no display. Without `layout` its axes stay where they are put."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # 0.5 s that only a report pays
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Any) -> bytes:
    """The same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def reliability_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Two panels for each of `rows`, two rows beside each other: accuracy by confidence with intervals, and below it n of each bin."""
    down = math.ceil(len(rows) / 2)
    figure = new_figure(4.8 * min(len(rows), 2), 4.9 * down)
    left = min(each["from"] for row in rows for each in row["bins"])
    most = max(each["n"] for row in rows for each in row["bins"])
    grid = figure.add_gridspec(2 * down, min(len(rows), 2), height_ratios=[3, 1] * down)
    for number, row in enumerate(rows):
        color = _INT8 if row["precision"] == "int8" else _FLOAT
        place = 2 * (number // 2), number % 2
        above, below = figure.add_subplot(grid[place]), figure.add_subplot(grid[place[0] + 1, place[1]])
        above.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
        _draw_bins(above, row["bins"], color)
        above.set(xlim=(left, 1.0), ylim=(-0.03, 1.03), ylabel="accuracy [95 %]")
        above.set_title(
            f"{row['engine']} {row['precision']}, {row['split']}, n={row['n']}: ECE {row['ece']:.3f}", fontsize=11
        )
        above.tick_params(labelbottom=False)
        bars = below.bar(
            [each["from"] for each in row["bins"]],
            [each["n"] for each in row["bins"]],
            width=[each["to"] - each["from"] for each in row["bins"]],
            align="edge",
            color=color,
            edgecolor="white",
        )
        below.bar_label(bars, fontsize=7.5, padding=1)
        below.set(xlim=(left, 1.0), ylim=(0, 1.3 * most), xlabel="confidence", ylabel="n")
    return figure


def sensitivity_figure(found: Mapping[str, Any], *, kept: Sequence[str] = ()) -> Any:
    """A bar for each of the 25 worst nodes of `found["rows"]`, the worst on top; those `kept` in float in another colour."""
    from matplotlib.patches import Patch  # noqa: PLC0415

    rows = found["rows"][:DRAWN]
    figure = new_figure(8.5, 1.5 + 0.27 * len(rows))
    axes = figure.add_subplot()
    values = [row["kl"] for row in rows]
    above_zero = [value for value in values if value > 0]
    colors = [_FLOAT if row["node"] in set(kept) else _INT8 for row in rows]
    axes.barh(range(len(rows)), values, color=colors)
    axes.set_yticks(range(len(rows)), [_end(row["node"]) for row in rows], fontsize=8, parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if above_zero and max(above_zero) > _DECADES * min(above_zero):
        axes.set_xscale("log")
        axes.set_xlim(left=min(above_zero) / 2)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("KL(float‖INT8) of the answer, in nats")
    shown = f"the {len(rows)} worst of {len(found['rows'])} nodes" if len(found["rows"]) > len(rows) else "every node"
    axes.set_title(f"{shown}, each alone in INT8; {found['clips']} clips of {found['split']}", fontsize=11)
    if _FLOAT in colors:
        names = (("runs in INT8", _INT8), ("kept in float", _FLOAT))
        axes.legend(handles=[Patch(color=color, label=name) for name, color in names], loc="lower right")
    return figure


def flips_figure(tiles: Sequence[Tile], *, count: int, n: int) -> Any:
    """A contact sheet of `tiles`, four a row; `count` of the `n` clips that were judged are flips."""
    across = min(4, len(tiles))
    down = math.ceil(len(tiles) / across)
    tall = _SIDE * min(_TALLEST, max(tile.frame.shape[0] / tile.frame.shape[1] for tile in tiles))
    step, title = tall + _UNDER, 0.4
    width, height = max(across * (_SIDE + _GAP) + _GAP, _LEAST), title + down * step
    figure = new_figure(width, height, layout=None)
    shown = f"; the {len(tiles)} that move most" if count > len(tiles) else ""
    figure.text(_GAP / width, 1 - 0.1 / height, f"INT8 names another class than float: {count} of {n}{shown}", va="top")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, across)
        left, bottom = _GAP + column * (_SIDE + _GAP), height - title - row * step - tall
        axes = figure.add_axes((left / width, bottom / height, _SIDE / width, tall / height))
        axes.imshow(tile.frame.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_anchor("SW")
        axes.set_axis_off()
        for line, (text, color) in enumerate(_told(tile.flip)):
            axes.annotate(
                text,
                (0, 0),
                xycoords="axes fraction",
                xytext=(0, -4 - 12 * line),
                textcoords="offset points",
                va="top",
                fontsize=8.5,
                color=color,
                parse_math=False,
            )
    return figure


def _told(flip: Mapping[str, Any]) -> list[tuple[str, str]]:
    name = flip["file"] + (f":{flip['key']}" if "key" in flip else "")
    lines = [(_end(name, 30), "0.45"), (f"truth: {_start(flip['truth'])} ({flip['split']})", "black")]
    for who, title in (("float", "float"), ("int8", "INT8")):
        color = _RIGHT if flip[who] == flip["truth"] else _WRONG
        lines.append((f"{title}: {_start(flip[who])} ({flip[f'{who}_probability']:.2f})", color))
    return lines


def _draw_bins(axes: Any, bins: Sequence[Mapping[str, Any]], color: str) -> None:
    middles = [each["confidence"] for each in bins]
    shares = [each["accuracy"] for each in bins]
    bounds = [wilson(round(each["accuracy"] * each["n"]), each["n"]) for each in bins]
    low = [max(0.0, share - bound[0]) for share, bound in zip(shares, bounds, strict=True)]
    high = [max(0.0, bound[1] - share) for share, bound in zip(shares, bounds, strict=True)]
    axes.errorbar(
        middles, shares, yerr=[low, high], fmt="o", color=color, ecolor=color, elinewidth=1, capsize=2, markersize=5
    )


def _end(text: str, most: int = _NAME) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _start(text: str) -> str:
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"
