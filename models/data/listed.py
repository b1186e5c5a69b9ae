"""Samples that a table lists: `splits.csv`, or a `labels.csv` that knows no more than what each file shows."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from models.data.load import numbered_frames
from models.data.sample import Sample
from models.errors import DataError

SPLITS = ("train", "val", "test")
_TABLES = {"splits.csv": ("label", "group", "split"), "labels.csv": ("label",)}
_MORE = "path (or file, and key for arrays in an npz)"

Rows = Sequence[tuple[int, Mapping[str, str]]]  # with the lines that they stand in


def table_of(folder: Path) -> Path | None:
    """The table in `folder`; splits.csv where there are both."""
    return next((folder / name for name in _TABLES if (folder / name).is_file()), None)


def read_table(table: Path) -> tuple[list[Sample], dict[int, str] | None]:
    """The samples in the order of the lines, and the classes by number where there is a column `index`. Raises DataError.

    Fields are parted by commas, or by the semicolons of spreadsheets. A labels.csv may leave out group and split: each file
    is then a group of its own, and of no split.
    """
    rows, columns = _rows(table)
    source = "path" if "path" in columns else "file"
    missing = {source, *_TABLES[table.name]} - columns
    if missing:
        wanted = ", ".join((_MORE, *_TABLES[table.name]))
        raise DataError(f"{table} lacks the columns {', '.join(sorted(missing))}; it needs {wanted}")
    samples = []
    seen: dict[tuple[Path, str | None], int] = {}
    for line, row in rows:
        sample = _sample(table, line, row, source=source)
        first = seen.setdefault((sample.path, sample.key), line)
        if first != line:
            raise DataError(f"{table}, line {line}: {sample.name} stands in line {first} already; take one out")
        samples.append(sample)
    return _number(table, rows, samples) if "index" in columns else (samples, None)


def _rows(table: Path) -> tuple[Rows, set[str]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 ({error.reason} at byte {error.start}); save it as CSV UTF-8") from None
    head = text.partition("\n")[0]
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=";" if ";" in head and "," not in head else ",", restval=""
    )
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    try:
        return [(reader.line_num, row) for row in reader], set(reader.fieldnames)
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: {error}; mend the line") from None


def _sample(table: Path, line: int, row: Mapping[str, str], *, source: str) -> Sample:
    named, label = row[source], row["label"]
    if not named or not label:
        raise DataError(f"{table}, line {line} has no {'label' if named else source}; fill it in, or take the line out")
    path = table.parent / named
    if not path.exists() and "\\" in named:  # written on Windows
        path = table.parent / named.replace("\\", "/")
    if not path.exists():
        raise DataError(f"{table}, line {line}: {named} does not exist; copy the data set again, or take the line out")
    if not path.is_relative_to(table.parent) or ".." in path.relative_to(table.parent).parts:
        raise DataError(
            f"{table}, line {line}: {named} lies outside {table.parent}; a data set is one folder: copy it there"
        )
    if path.is_dir():
        numbered_frames(path)
    split = row.get("split") or None
    if split not in SPLITS and (split is not None or "split" in _TABLES[table.name]):
        raise DataError(f"{table}, line {line}: split is {row.get('split', '')!r}; allowed are {', '.join(SPLITS)}")
    width, height = (int(row[side]) if (row.get(side) or "").isdecimal() else None for side in ("width", "height"))
    key = row.get("key") or None
    group = row.get("group") or (named if key is None else f"{named}:{key}")
    return Sample(path, key, label, group, split, width=width, height=height)


def _number(table: Path, rows: Rows, samples: list[Sample]) -> tuple[list[Sample], dict[int, str]]:
    """Classes by their `index`; two of one name are told apart by their wnid or, lacking one, their index."""
    named: dict[int, tuple[str, str]] = {}
    for line, row in rows:
        if not row["index"].isdecimal():
            raise DataError(
                f"{table}, line {line}: index is {row['index']!r}, which is no number from 0; mend the line"
            )
        index = int(row["index"])
        if named.setdefault(index, (row["label"], row.get("wnid") or row["index"]))[0] != row["label"]:
            raise DataError(
                f"{table}: index {index} stands for {named[index][0]!r} and for {row['label']!r}; each class needs its own"
            )
    if sorted(named) != list(range(len(named))):
        raise DataError(
            f"{table}: indices run to {max(named)} for {len(named)} classes; they must run from 0 without gaps"
        )
    count = Counter(label for label, _ in named.values())
    names = {index: f"{label} ({extra})" if count[label] > 1 else label for index, (label, extra) in named.items()}
    return [
        replace(sample, label=names[int(row["index"])]) for sample, (_, row) in zip(samples, rows, strict=True)
    ], names
