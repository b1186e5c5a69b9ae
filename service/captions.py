"""Segments as text: WebVTT for a player, CSV for a spreadsheet. Both are made piece by piece, whatever their length.

Sources: WebVTT, W3C Candidate Recommendation (§4 syntax); CSV, RFC 4180.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Protocol

VTT_TYPE = "text/vtt"
CSV_TYPE = "text/csv"

CSV_COLUMNS = ("start_s", "end_s", "rank", "class_id", "label", "probability")
# What a spreadsheet takes for the beginning of a formula (OWASP, CSV injection): an apostrophe makes it text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class Said(Protocol):
    """One class and its probability."""

    @property
    def class_id(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def probability(self) -> float: ...


class Caption(Protocol):
    """What was said of the video from `start_s` to `end_s`, likeliest first."""

    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...
    @property
    def predictions(self) -> Sequence[Said]: ...


def vtt_head(note: str) -> str:
    """The file's first lines, with `note` as a comment that players do not show."""
    # A comment ends at an empty line, and may not hold an arrow; nothing in it is unescaped.
    text = " ".join(note.split()).replace("-->", "->")
    return f"WEBVTT\n\nNOTE {text}\n"


def vtt_cue(caption: Caption, *, multi_label: bool, every: bool) -> str:
    """One cue, a line for each class: `every` one of the caption, or only what it says.

    That is the likeliest class, and of a multi-label model those above 0.5, or the likeliest where there is none.
    """
    said = caption.predictions
    if not every:
        said = (multi_label and [each for each in said if each.probability > 0.5]) or said[:1]
    # Cues that meet still do, since both round the same border; and none lasts no time at all.
    start = round(caption.start_s * 1000)
    end = max(round(caption.end_s * 1000), start + 1)
    lines = "\n".join(f"{_escaped(each.label)} {each.probability:.0%}" for each in said)
    return f"\n{_clock(start)} --> {_clock(end)}\n{lines}\n"


def csv_head() -> str:
    return _row(CSV_COLUMNS)


def csv_rows(caption: Caption) -> str:
    """A row for each class of the caption; ranks begin at 1."""
    return "".join(
        _row(
            (
                f"{caption.start_s:.4f}",
                f"{caption.end_s:.4f}",
                rank,
                each.class_id,
                f"'{each.label}" if each.label.lstrip(" ").startswith(_FORMULA) else each.label,
                f"{each.probability:.6f}",
            )
        )
        for rank, each in enumerate(caption.predictions, start=1)
    )


def _row(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()


def _escaped(label: str) -> str:
    """In one line, with nothing that a cue's text takes for markup, the arrow included."""
    return " ".join(label.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(milliseconds: int) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}.{thousandths:03}"
