"""RESULTS.md, drawn from the committed reports alone: no figure in it is typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.table.cells import NONE, busy, duration, milliseconds, percent, points, score, size, table, what
from models.table.entry import Entry, read_entries
from models.table.folds import CrossValidated, fold_tables, read_crossvals
from models.table.pairs import pair_table

_HEAD = """\
# What the models reach

Written by `marey-build results` from `models/results/*/report.json` and `crossval*.json`; change those, not this page. How to make a report:
`marey-build run ID --data DATA --out BUNDLE --results models/results`.

Accuracy stands with Wilson's 95 % interval, AUC (the area under the ROC curve; with several classes the mean of each against the rest)
with that of a stratified bootstrap of 2,000 resamples. Each is of the split and the n beside it, which neither training nor any choice has seen."""

_TIMES = """\
Milliseconds are medians on OpenVINO of everything between the frames and the probabilities, for one image or clip of so many frames; float and
INT8 took turns in one run. Size: the files that serve, float weights stored in half precision where the recipe says so."""

_BUSY = "°: measured while the machine was busy with other work: a ratio of float and INT8, not a speed. `marey-build results --time BUNDLES` measures again."

_PUBLISHED = "Usually published for LSTMs on MNIST's test set, for comparison: 98.2, 97.5 and 98.0 %."

_FOLDS = """\
Every clip is judged once, by a model that saw no clip of its group. Accuracy ± the standard error over folds; spread: their standard deviation, in
points. The floor is a logistic regression on frozen EfficientNet-Lite0 features (mean, deviation and mean change over time), in the same folds;
the difference to it is of the folds' differences, ± its standard error."""

_PAIRS = """\
Both were asked about the very same samples, in float. The interval of the difference is Bonett and Price's (2012)."""

_NOT_BUILT = """\
- **Audio or text beside video**: no data set here has a sound track or captions with labels; a bundle takes frames only.
- **Volumes** (CT, MRI): no data. A stack of slices would go in as a clip: `cnn3d` and `cnn_lstm` read one.
- **Thyroid ultrasound, remote sensing**: no data with a licence that we could get; `cnn` and `cnn_seq_image` start from a folder of images per class."""


def write_page(folder: Path, out: Path) -> Path:
    """Write the page of the reports below `folder` to `out`; raises DataError."""
    out.write_text(page(read_entries(folder), read_crossvals(folder)), encoding="utf-8")
    return out


def page(entries: Sequence[Entry], crossvals: Sequence[CrossValidated]) -> str:
    """The whole page; a section without content is left out."""
    trained = [entry for entry in entries if not entry.without_weights and not entry.overrides]
    sections = (
        ("Models", _models(trained)),
        ("Side by side on the same samples", _with(_PAIRS, pair_table(entries))),
        ("Grouped cross-validation", _with(_FOLDS, fold_tables(crossvals, entries))),
        ("Where, not only what", _places(trained)),
        ("Studies", _studies(entries)),
        ("Not trained here: no weights", _without_weights(entries)),
        ("Not built, and why", _NOT_BUILT.splitlines()),
    )
    lines = [_HEAD, ""]
    for title, section in sections:
        if section:
            lines += [f"## {title}", "", *section, ""]
    return "\n".join(lines).rstrip() + "\n"


def _models(entries: Sequence[Entry]) -> list[str]:
    header = [
        "model",
        "data, split (n)",
        "parameters",
        "size float / INT8",
        "weights in INT8",
        "float",
        "INT8",
        "ms float / INT8",
        "trained in",
    ]
    rows = [_row(entry) for entry in entries]
    notes = [f"- `{entry.id}`: no INT8: {entry.no_int8}." for entry in entries if entry.no_int8]
    notes += [f"- `{entry.id}`: {entry.not_trained}." for entry in entries if entry.not_trained]
    told = [f"- `{entry.id}`: {entry.verdict}." for entry in entries if entry.verdict and "refused" in entry.verdict]
    published = [_PUBLISHED] if any(entry.data.name == "mnist" for entry in entries) else []
    marked = [_BUSY] if any(entry.timing and busy(entry.timing) for entry in entries) else []
    commands = [f"    {entry.command}" for entry in entries if entry.command]
    return _with(
        _TIMES,
        [
            *table(header, rows),
            "",
            *notes,
            *told,
            *_after(marked),
            *_after(published),
            *_after(["Commands:", "", *commands]),
        ],
    )


def _row(entry: Entry) -> list[str]:
    first = entry.figure("fp32")
    return [
        f"`{entry.id}`",
        f"{entry.data.name}, {first.split} ({first.n:,})" if first else entry.data.name or NONE,
        f"{entry.parameters:,}",
        f"{size(entry.float_bytes)} / {size(entry.int8_bytes)}",
        NONE if entry.int8_share is None else f"{entry.int8_share:.0%}",
        score(entry, first),
        score(entry, entry.figure("int8")),
        f"{milliseconds(entry.timing)}, {what(entry)}",
        duration(entry.training_seconds),
    ]


def _places(entries: Sequence[Entry]) -> list[str]:
    rows = [
        [
            f"`{entry.id}`",
            entry.data.name or NONE,
            place.name,
            f"{place.value:.3f}" + (f" [{place.interval[0]:.3f}, {place.interval[1]:.3f}]" if place.interval else ""),
            f"{place.split} ({place.n:,})",
        ]
        for entry in entries
        for place in entry.places
    ]
    return table(["model", "data", "figure", "value [95 %]", "split (n)"], rows) if rows else []


def _studies(entries: Sequence[Entry]) -> list[str]:
    """What was set otherwise in a recipe that ships, or done to its test images; below the recipe as it ships."""
    by_id = {entry.id: entry for entry in entries}
    rows = []
    for base in sorted({entry.base for entry in entries}):
        own = by_id.get(base)
        variants = [entry for entry in entries if entry.base == base and entry.overrides]
        changed = [each for each in own.figures if each.changed is not None and each.precision == "fp32"] if own else []
        if not variants and not changed:
            continue
        whole = own.figure("fp32") if own else None
        if own is not None and whole is not None:
            rows.append(
                [
                    f"`{base}`",
                    "as it ships",
                    str(whole.n),
                    score(own, whole),
                    NONE,
                    milliseconds(own.timing),
                    duration(own.training_seconds),
                ]
            )
        for each in changed:
            less = points(each.accuracy - whole.accuracy) if whole else NONE
            rows.append(
                [
                    f"`{base}`",
                    f"judged on images changed: {each.changed}",
                    str(each.n),
                    percent(each.accuracy, each.accuracy_interval),
                    less,
                    NONE,
                    NONE,
                ]
            )
        for entry in variants:
            found = entry.figure("fp32")
            if found is None:
                continue
            said = ", ".join(each for each in entry.overrides if not each.startswith("name="))
            less = points(found.accuracy - whole.accuracy) if whole else NONE
            rows.append(
                [
                    f"`{entry.id}`",
                    said,
                    str(found.n),
                    score(entry, found),
                    less,
                    milliseconds(entry.timing),
                    duration(entry.training_seconds),
                ]
            )
    header = ["model", "what differs", "n", "float", "difference in points", "ms float / INT8", "trained in"]
    return table(header, rows) if rows else []


def _without_weights(entries: Sequence[Entry]) -> list[str]:
    rows = [
        [
            f"`{entry.id}`",
            entry.description,
            f"{entry.parameters:,}",
            f"{size(entry.float_bytes)} / {size(entry.int8_bytes)}",
            NONE if entry.int8_share is None else f"{entry.int8_share:.0%}",
            f"{milliseconds(entry.timing)}, {what(entry)}",
        ]
        for entry in entries
        if entry.without_weights
    ]
    header = ["model", "what", "parameters", "size float / INT8", "weights in INT8", "ms float / INT8"]
    return (
        _with(
            "Random weights: exported, quantized, proved equal to Keras and timed; an accuracy would be chance.",
            table(header, rows),
        )
        if rows
        else []
    )


def _with(text: str, lines: Sequence[str]) -> list[str]:
    return [text, "", *lines] if lines else []


def _after(lines: Sequence[str]) -> list[str]:
    return ["", *lines] if lines else []
