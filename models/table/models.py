"""The rows of RESULTS.md: one for each model that was trained here or came with its weights, and what was wanted of them."""

from __future__ import annotations

from collections.abc import Sequence

from models.table.cells import NONE, busy, duration, milliseconds, paragraphs, percent, score, size, table, what
from models.table.entry import Entry

_TIMES = """\
Milliseconds are medians on OpenVINO of everything between the frames and the probabilities, for one image or clip of so many frames; float and
INT8 took turns in one run. Size: the files that serve; float weights are stored in half precision where the recipe says so. Weights in INT8: their
share of all weights; recurrent layers and the last decision stay float. Trained in: the training alone, most beside other work; the recipe's head tells the whole run."""

_BUSY = """\
°: measured while the machine was busy with other work: a ratio of float and INT8, not a speed. `marey-build results --time BUNDLES` measures again."""

_PUBLISHED = "Usually published for LSTMs on MNIST's test set, for comparison: 98.2, 97.5 and 98.0 %."

# What issue and design ask for, by the figure that is asked.
_WANTED: dict[str, tuple[str, float]] = {
    "cnn_mnist": ("accuracy", 0.992),
    "cnn_neu": ("accuracy", 0.98),
    "defect_bilstm_tile": ("AUC", 0.95),
    "row_lstm_mnist": ("accuracy", 0.982),
    "row_lstm_regularized_mnist": ("accuracy", 0.98),
}
_LONGEST = 25 * 60.0


def model_table(entries: Sequence[Entry]) -> list[str]:
    """A row for each, what must be said beside it, and the commands."""
    if not entries:
        return []
    header = [
        "model",
        "data, split (n)",
        "parameters",
        "size float / INT8",
        "weights in INT8",
        "float [95 %]",
        "INT8 [95 %]",
        "ms float / INT8",
        "trained in",
    ]
    notes = [f"- `{entry.id}`: no INT8: {entry.no_int8}." for entry in entries if entry.no_int8]
    notes += [f"- `{entry.id}`: {entry.not_trained}." for entry in entries if entry.not_trained]
    notes += [
        f"- `{entry.id}`: {entry.verdict}." for entry in entries if entry.verdict and "INT8 refused" in entry.verdict
    ]
    return paragraphs(
        [_TIMES],
        table(header, [_row(entry) for entry in entries]),
        notes,
        [_BUSY] if any(entry.timing and busy(entry.timing) for entry in entries) else [],
        [_PUBLISHED] if any(entry.data.name == "mnist" for entry in entries) else [],
        ["Each is made again by its command; DATA is the folder of the data sets:"],
        [f"    {entry.command}" for entry in entries if entry.command],
    )


def targets(entries: Sequence[Entry]) -> list[str]:
    """What was wanted, what was reached. Why a target is missed is said where the recipe is."""
    rows = []
    for entry in entries:
        found = entry.figure("fp32")
        if entry.id in _WANTED and found is not None:
            figure, least = _WANTED[entry.id]
            reached = found.auc if figure == "AUC" else found.accuracy
            said = f"{figure} ≥ {least:.2f}" if figure == "AUC" else f"{figure} ≥ {percent(least)}"
            value = NONE if reached is None else f"{reached:.3f}" if figure == "AUC" else percent(reached)
            rows.append([f"`{entry.id}`", said, value, "met" if reached is not None and reached >= least else "missed"])
    late = [entry for entry in entries if (entry.training_seconds or 0) > _LONGEST]
    timed = [entry for entry in entries if entry.training_seconds is not None]
    if timed:
        longest = max(timed, key=lambda entry: entry.training_seconds or 0)
        names = ", ".join(f"`{entry.id}`" for entry in late) or f"the longest: `{longest.id}`"
        told = f"{len(timed) - len(late)} of {len(timed)} that were timed; {'not ' if late else ''}{names}, {duration(longest.training_seconds)}"
        rows.append(["all", f"trained in ≤ {duration(_LONGEST)}", told, "missed" if late else "met"])
    if not rows:
        return []
    return paragraphs(
        table(["model", "wanted", "reached (float)", ""], rows),
        ["Why a target is missed is said in the head of the recipe, `models/recipes/ID.toml`."],
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


def without_weights(entries: Sequence[Entry]) -> list[str]:
    """What was built with random weights, to show that it goes the whole way and how fast it is."""
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
    ]
    if not rows:
        return []
    header = ["model", "what", "parameters", "size float / INT8", "weights in INT8", "ms float / INT8"]
    return paragraphs(
        ["Random weights: exported, quantized, proved equal to Keras and timed; an accuracy would be chance."],
        table(header, rows),
    )
