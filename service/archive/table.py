"""What is known of the files of an archive: one row a file, in parts while the work goes on, and one Parquet file in the end.

# Note [Resumed]
A part is complete once it has its name. Whoever was stopped goes on with the files that no part, and no finished result, has; a
file that was changed since is looked at again. All of one result were asked the same, of the same bundles: that stands in the file.
"""

from __future__ import annotations

import fcntl
import json
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from service.archive.source import File, Location
from service.errors import MareyError

_PREDICTIONS = pa.list_(pa.struct([("class_id", pa.int32()), ("label", pa.string()), ("probability", pa.float64())]))
_SEGMENTS = pa.list_(
    pa.struct(
        [
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("windows", pa.int32()),
            ("predictions", _PREDICTIONS),
        ]
    )
)
# `answer`: all that the service answers, as JSON; the columns before it are what one asks for most.
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.timestamp("us", tz="UTC")),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("predictions", _PREDICTIONS),
        ("segments", _SEGMENTS),
        ("duration_s", pa.float64()),
        ("model", pa.string()),
        ("version", pa.string()),
        ("engine", pa.string()),
        ("precision", pa.string()),
        ("error_code", pa.string()),
        ("error", pa.string()),
        ("answer", pa.string()),
    ]
)
_ASKED = b"marey"
_OF_OUR_OWN = ("file", "request_id", "timings_ms", "batch_size")  # of one run, and not of the file


def row(file: File, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Of a file and what `service.client` yields for it."""
    found: dict[str, Any] = {"path": file.path, "size": file.size, "modified": file.modified}
    if "error" in answer:
        return {**found, "error_code": answer["error"]["code"], "error": answer["error"]["detail"]}
    best, model = answer["predictions"][0], answer["model"]
    return {
        **found,
        "label": best["label"],
        "probability": best["probability"],
        "predictions": answer["predictions"],
        "segments": answer.get("segments"),
        "duration_s": answer.get("video", {}).get("duration_s"),
        **{name: model[name] for name in ("engine", "precision", "version")},
        "model": model["name"],
        "answer": json.dumps({name: value for name, value in answer.items() if name not in _OF_OUR_OWN}),
    }


def table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


class Results:
    """The rows of one archive at `out`, and of what was asked: `asked` names it, and must be the same whenever it goes on."""

    def __init__(self, out: Location, asked: Mapping[str, Any]) -> None:
        self._out = out
        self._parts = out.beside(".parts")
        self._asked = json.dumps(asked, sort_keys=True).encode()
        self._locked: IO[str] | None = None

    def open(self) -> pa.Table:
        """The rows that are there from earlier. Raises MareyError where they are another's, or where none could be written."""
        if self._out.is_folder:
            raise MareyError(f"{self._out.path} is a folder; name a file by --out")
        rows = self._joined(self._written())
        self._writable()
        self._lock()
        return rows

    def close(self) -> None:
        """Let another run work on it."""
        if self._locked is not None:
            self._locked.close()
            self._locked = None

    def add(self, rows: pa.Table) -> None:
        """Keep `rows`: nothing of them is lost from here on."""
        self._make(self._parts)
        # In the order of time, and of two that work at once none has the other's name.
        self._write(rows, self._parts.within(f"part-{time.time_ns():020}-{secrets.token_hex(4)}.parquet"))

    def finish(self) -> pa.Table:
        """Join all rows to one file, by path, in the place of the parts."""
        parts = self._written()
        whole = self._joined(parts)
        self._write(whole, self._out)
        for part in parts:
            self._parts.filesystem.delete_file(part.path)
        if self._parts.exists and not self._written():  # else another still works on it
            self._parts.filesystem.delete_dir(self._parts.path)
        return whole

    def _written(self) -> list[File]:
        return self._parts.files() if self._parts.exists else []

    def _joined(self, parts: Iterable[File]) -> pa.Table:
        tables = [self._read(self._out)] if self._out.exists else []
        tables += [self._read(Location(self._out.filesystem, part.path)) for part in parts]
        return _newest(pa.concat_tables(tables)) if tables else table([])

    def _writable(self) -> None:
        """Raise MareyError where nothing can be written: before hours of work, and not after them."""
        self._make(self._parts)
        draft = self._parts.within(".draft")
        self._write(table([]), draft)
        draft.filesystem.delete_file(draft.path)

    def _lock(self) -> None:
        """Raise MareyError where another run works on the same result. On this machine only: stores know no locks."""
        if isinstance(self._parts.filesystem, fs.LocalFileSystem) and self._locked is None:
            file = Path(self._parts.within(".lock").path).open("a")  # noqa: SIM115  # held until this process ends
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                raise MareyError(
                    f"another run works on {self._out.path}; wait for it, or name another by --out"
                ) from None
            self._locked = file

    def _make(self, folder: Location) -> None:
        try:
            folder.filesystem.create_dir(folder.path, recursive=True)
        except (pa.ArrowException, OSError) as error:
            raise MareyError(f"{folder.path} cannot be made: {error}; name another file by --out") from error

    def _write(self, rows: pa.Table, where: Location) -> None:
        folder, _, name = where.path.rpartition("/")
        draft = Location(where.filesystem, f"{folder}/.{name}.draft")
        try:
            described = rows.replace_schema_metadata({_ASKED: self._asked})
            pq.write_table(described, draft.path, filesystem=draft.filesystem, compression="zstd")
            where.filesystem.move(draft.path, where.path)
        except (pa.ArrowException, OSError) as error:
            raise MareyError(f"{where.path} cannot be written: {error}; name another by --out") from error

    def _read(self, where: Location) -> pa.Table:
        try:
            read = pq.read_table(where.path, filesystem=where.filesystem)
        except (pa.ArrowException, OSError) as error:
            raise MareyError(
                f"{where.path} is no result of ours that can be read: {error}; name another by --out"
            ) from error
        asked = (read.schema.metadata or {}).get(_ASKED)
        if asked != self._asked:
            raise MareyError(
                f"{where.path} has answers to something else ({_told(asked)}, and now {_told(self._asked)}); "
                "name another file by --out, or remove that one"
            )
        return read.replace_schema_metadata(None)


def known(rows: pa.Table, *, retry: bool) -> set[File]:
    """What need not be looked at again; with `retry`, without what failed."""
    kept = rows.filter(pc.is_null(rows.column("error"))) if retry else rows
    columns = [kept.column("path"), kept.column("size"), kept.column("modified").cast(pa.int64())]
    return {File(*each) for each in zip(*(column.to_pylist() for column in columns), strict=True)}


def _newest(rows: pa.Table) -> pa.Table:
    """Of rows of one path the last, by path."""
    last = {path: number for number, path in enumerate(rows.column("path").to_pylist())}
    return rows.take(pa.array([last[path] for path in sorted(last)], pa.int64()))


def _told(asked: bytes | None) -> str:
    return "it is not ours" if asked is None else asked.decode(errors="replace")[:600]
