"""What else was asked of a model: other settings, less data, changed images, and where rather than what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.table.cells import NONE, duration, milliseconds, percent, points, score, table
from models.table.entry import Entry


def study_table(entries: Sequence[Entry]) -> list[str]:
    """Below each recipe that ships, its variants, and itself on changed images."""
    header = ["model", "what differs", "n", "float [95 %]", "difference in points", "ms float / INT8", "trained in"]
    by_id = {entry.id: entry for entry in entries}
    rows = []
    for base in sorted({entry.base for entry in entries}):
        own = by_id.get(base)
        below = [*_changed(own), *_variants(own, [each for each in entries if each.base == base and each.overrides])]
        if below:
            rows += [*_as_it_ships(own), *below]
    return table(header, rows) if rows else []


def _as_it_ships(own: Entry | None) -> Iterator[list[str]]:
    figure = own.figure("fp32") if own else None
    if own is not None and figure is not None:
        times = [milliseconds(own.timing), duration(own.training_seconds)]
        yield [f"`{own.id}`", "as it ships", f"{figure.n:,}", score(own, figure), NONE, *times]


def _changed(own: Entry | None) -> Iterator[list[str]]:
    for each in own.robustness if own else ():
        if own is not None and each.precision == "fp32":
            low, high = each.difference_interval
            difference = f"{points(each.difference)} [{points(low)}, {points(high)}]"
            accuracy = percent(each.accuracy, each.accuracy_interval)
            yield [f"`{own.id}`", f"test images {each.changed}", f"{each.n:,}", accuracy, difference, NONE, NONE]


def _variants(own: Entry | None, variants: Sequence[Entry]) -> Iterator[list[str]]:
    whole = own.figure("fp32") if own else None
    for entry in variants:
        figure = entry.figure("fp32")
        if figure is not None:
            said = ", ".join(f"`{each}`" for each in entry.overrides if not each.startswith("name="))
            less = points(figure.accuracy - whole.accuracy) if whole else NONE
            times = [milliseconds(entry.timing), duration(entry.training_seconds)]
            yield [f"`{entry.id}`", said, f"{figure.n:,}", score(entry, figure), less, *times]


def place_table(entries: Sequence[Entry]) -> list[str]:
    """How well each says where; of the network alone, and with what follows it."""
    rows = [
        [
            f"`{entry.id}`",
            entry.data.name or NONE,
            f"{each.precision}, {each.by}",
            f"{each.split} ({each.n:,})",
            _with(each.image_auc, each.image_auc_interval),
            _with(each.pixel_auc, each.pixel_auc_interval),
            _with(each.iou, each.iou_interval),
            ", ".join(f"{label} {value:.2f}" for label, value in each.iou_by_label.items()) or NONE,
        ]
        for entry in entries
        for each in entry.localisation
    ]
    header = ["model", "data", "by", "split (n)", "image AUC [95 %]", "pixel AUC [95 %]", "IoU [95 %]", "IoU by class"]
    return table(header, rows) if rows else []


def _with(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return NONE
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
