"""WebVTT and CSV as players and spreadsheets read them."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

import pytest

from service.captions import csv_head, csv_rows, vtt_cue, vtt_head


@dataclass(frozen=True)
class Said:
    class_id: int
    label: str
    probability: float


@dataclass(frozen=True)
class Caption:
    start_s: float
    end_s: float
    predictions: tuple[Said, ...]


FIGHT = Caption(0, 2.5, (Said(1, "fight", 0.91), Said(0, "no fight", 0.09)))


def cue(caption: Caption, *, multi_label: bool = False, every: bool = False) -> list[str]:
    return vtt_cue(caption, multi_label=multi_label, every=every).strip("\n").split("\n")


def test_a_webvtt_file_begins_with_its_signature_and_a_note() -> None:
    assert vtt_head("fight 1.0.0") == "WEBVTT\n\nNOTE fight 1.0.0\n"


def test_a_note_cannot_end_early_nor_hold_an_arrow() -> None:
    assert vtt_head("a\n\nb --> c") == "WEBVTT\n\nNOTE a b -> c\n"


def test_a_cue_is_a_line_of_times_and_the_likeliest_class() -> None:
    assert cue(FIGHT) == ["00:00:00.000 --> 00:00:02.500", "fight 91%"]
    assert cue(FIGHT, every=True)[1:] == ["fight 91%", "no fight 9%"]


def test_a_multi_label_cue_shows_what_is_above_one_half_or_the_likeliest() -> None:
    many = Caption(0, 1, (Said(0, "a", 0.9), Said(1, "b", 0.6), Said(2, "c", 0.5)))
    assert cue(many, multi_label=True)[1:] == ["a 90%", "b 60%"]
    few = Caption(0, 1, (Said(0, "a", 0.3), Said(1, "b", 0.2)))
    assert cue(few, multi_label=True)[1:] == ["a 30%"]


def test_hours_minutes_and_milliseconds_are_written_out() -> None:
    times = cue(Caption(3599.9996, 360_061.0014, FIGHT.predictions))[0]
    assert times == "01:00:00.000 --> 100:01:01.001"


def test_cues_that_meet_still_meet_and_none_is_empty() -> None:
    one, two = (cue(Caption(*span, FIGHT.predictions))[0] for span in ((0, 1.00049), (1.00049, 1.0005)))
    assert one.endswith("--> 00:00:01.000")
    assert two == "00:00:01.000 --> 00:00:01.001"


@pytest.mark.parametrize(
    ("label", "written"),
    [
        ("a<b>&c", "a&lt;b&gt;&amp;c"),
        ("00:00 --> 00:01", "00:00 --&gt; 00:01"),
        ("two\n\nlines", "two lines"),
        ("&amp;", "&amp;amp;"),
    ],
)
def test_labels_cannot_be_markup_nor_begin_a_cue_of_their_own(label: str, written: str) -> None:
    assert cue(Caption(0, 1, (Said(0, label, 1.0),)))[1:] == [f"{written} 100%"]


def test_csv_has_a_row_for_each_segment_and_class() -> None:
    text = csv_head() + csv_rows(FIGHT)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows[0] == {
        "start_s": "0.0000", "end_s": "2.5000", "rank": "1", "class_id": "1", "label": "fight", "probability": "0.910000",
    }  # fmt: skip
    assert [(row["rank"], row["label"]) for row in rows] == [("1", "fight"), ("2", "no fight")]
    assert re.findall(r"(?<!\r)\n", text) == [], "lines end with CRLF"


def test_csv_keeps_labels_with_commas_quotes_and_line_ends() -> None:
    label = 'chair, "folding"\r\nred'
    (row,) = csv.DictReader(io.StringIO(csv_head() + csv_rows(Caption(0, 1, (Said(0, label, 1.0),))), newline=""))
    assert row["label"] == label


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"])
def test_no_label_is_a_formula_to_a_spreadsheet(label: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_head() + csv_rows(Caption(0, 1, (Said(0, label, 1.0),))), newline=""))
    assert row["label"] == f"'{label}"
