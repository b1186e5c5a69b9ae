"""Jobs and segments as rows of the tables, and back."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.jobs.job import Checkpoint, Fault, Job, Outcome, Subject, Told, Wish
from service.media.frames import VideoInfo, Windows
from service.segments import Opened, Segment

# All of a job that a list shows; what it takes to go on is read with `checkpoint_of`.
COLUMNS = (
    "number, id, owner, state, wish, bytes, created, started, finished, progress, looked_s, segments, attempts, fault"
)


def job_of(row: sqlite3.Row) -> Job:
    wish = json.loads(row["wish"])
    return Job(
        **{name: row[name] for name in row.keys() if name not in ("wish", "fault")},  # noqa: SIM118  # a Row is no dict
        wish=Wish(**{**wish, "windows": Windows(**wish["windows"])}),
        fault=Fault(**json.loads(row["fault"])) if row["fault"] else None,
    )


def text_of(value: Wish | Fault | Subject) -> str:
    return json.dumps(asdict(value), ensure_ascii=False)


def subject_of(text: str) -> Subject:
    found = json.loads(text)
    return Subject(**{**found, "labels": tuple(found["labels"]), "artifacts": tuple(found["artifacts"])})


def checkpoint_of(row: sqlite3.Row) -> Checkpoint:
    opened = None
    if row["opened"]:
        found = json.loads(row["opened"])
        opened = Opened(**{**found, "said": tuple(found["said"])}, total=np.frombuffer(row["opened_total"], np.float64))
    total = None if row["total"] is None else np.frombuffer(row["total"], np.float64)
    return Checkpoint(row["windows"], opened, total)


def checkpoint_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """Values of the columns `windows`, `opened`, `opened_total` and `total`."""
    opened = checkpoint.opened
    said = None
    if opened is not None:
        said = json.dumps(
            {"start_s": opened.start_s, "end_s": opened.end_s, "windows": opened.windows, "said": opened.said}
        )
    return {
        "windows": checkpoint.windows,
        "opened": said,
        "opened_total": None if opened is None else opened.total.tobytes(),
        "total": None if checkpoint.total is None else checkpoint.total.tobytes(),
    }


def outcome_text(outcome: Outcome) -> str:
    """All but the probabilities."""
    return json.dumps(
        {
            "video": asdict(outcome.video),
            "stride_s": outcome.stride_s,
            "windows": outcome.windows,
            "warnings": outcome.warnings,
        },
        ensure_ascii=False,
    )


def outcome_of(row: sqlite3.Row) -> Outcome:
    found = json.loads(row["outcome"])
    return Outcome(
        VideoInfo(**found["video"]),
        found["stride_s"],
        found["windows"],
        tuple(found["warnings"]),
        np.frombuffer(row["probabilities"], np.float32),
    )


def segment_values(segment: Segment, *, classes: int) -> tuple[float, float, int, bytes, bytes]:
    """`start_s` to `probabilities`; of the classes only the likeliest."""
    best: NDArray[np.intp] = np.argsort(-segment.probabilities, kind="stable")[:classes]
    return (
        segment.start_s,
        segment.end_s,
        segment.windows,
        best.astype(np.uint32).tobytes(),
        segment.probabilities[best].tobytes(),
    )


def told_of(row: sqlite3.Row) -> Told:
    return Told(
        row["start_s"],
        row["end_s"],
        row["windows"],
        tuple(np.frombuffer(row["class_ids"], np.uint32).tolist()),
        tuple(np.frombuffer(row["probabilities"], np.float32).tolist()),
    )
