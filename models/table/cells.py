"""How a figure is written in a cell of RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence

from models.table.entry import Entry, Figures, Timing

NONE = "–"
# Above this many processes a core, times are ratios only.
BUSY = 1.2


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, as narrow as it can be: some of these have a dozen columns."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def paragraphs(*parts: Sequence[str]) -> list[str]:
    """The lines of all parts, an empty one between; parts without lines leave none."""
    lines: list[str] = []
    for part in parts:
        if part:
            lines += [*([""] if lines else []), *part]
    return lines


def percent(value: float, interval: tuple[float, float] | None = None) -> str:
    return f"{value:.1%}" + (f" [{interval[0]:.1%}, {interval[1]:.1%}]" if interval else "")


def points(value: float, spread: float | None = None) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * value:+.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")


def score(entry: Entry, figures: Figures | None) -> str:
    """The accuracy with its interval; before it the AUC, where that is what the recipe asks for."""
    if figures is None:
        return NONE
    accuracy = percent(figures.accuracy, figures.accuracy_interval)
    if entry.score == "accuracy" or figures.auc is None or figures.auc_interval is None:
        return accuracy
    low, high = figures.auc_interval
    return f"AUC {figures.auc:.3f} [{low:.3f}, {high:.3f}]; {accuracy}"


def size(count: int | None) -> str:
    if count is None:
        return NONE
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def milliseconds(timing: Timing | None) -> str:
    """Float / INT8, with a mark where the machine was busy."""
    if timing is None:
        return NONE
    both = f"{_ms(timing.float_ms)} / {NONE if timing.int8_ms is None else _ms(timing.int8_ms)}"
    return both + (" °" if busy(timing) else "")


def busy(timing: Timing) -> bool:
    return timing.load is not None and timing.load > BUSY


def what(entry: Entry) -> str:
    """What the milliseconds are for."""
    if entry.timing is None or entry.unit == "image":
        return entry.unit
    return f"{entry.unit} of {entry.timing.frames}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
