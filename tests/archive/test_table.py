"""Rows in parts, and joined: nothing of a part is lost, and nothing of another question is taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from service.archive.source import File, Location
from service.archive.table import SCHEMA, Results, known, row, table
from service.errors import MareyError

ASKED = {"bundles": {"color:1.0.0": "abc"}, "top_k": 3}
ANSWER = {
    "request_id": "of one run",
    "timings_ms": {"total": 1.0},
    "batch_size": 4,
    "model": {"name": "color", "version": "1.0.0", "engine": "openvino", "precision": "fp32"},
    "predictions": [{"class_id": 2, "label": "blue", "probability": 0.9}],
    "video": {"duration_s": 1.2},
    "segments": [
        {
            "start_s": 0.0,
            "end_s": 1.2,
            "windows": 1,
            "predictions": [{"class_id": 2, "label": "blue", "probability": 0.9}],
        }
    ],
    "warnings": ["short"],
}


def file(name: str, *, size: int = 1, modified: int = 1_700_000_000_123_456) -> File:
    return File(f"/archive/{name}", size, modified)


@pytest.fixture
def results() -> Iterator[Callable[..., Results]]:
    """`results(out, top_k=1)`: of another question; a second one for the same file takes the place of a run that was killed."""
    made: list[Results] = []

    def make(out: Path, **changes: Any) -> Results:
        for each in made:
            each.close()
        made.append(Results(Location.of(str(out)), {**ASKED, **changes}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_row_has_what_one_asks_for_in_columns_and_the_rest_as_json() -> None:
    (found,) = table([row(file("a.mp4"), ANSWER)]).to_pylist()
    assert found["label"] == "blue"
    assert found["predictions"] == ANSWER["predictions"]
    assert found["segments"] == ANSWER["segments"]
    assert (found["model"], found["version"], found["duration_s"]) == ("color", "1.0.0", 1.2)
    assert json.loads(found["answer"]) == {
        name: value for name, value in ANSWER.items() if name not in ("request_id", "timings_ms", "batch_size")
    }
    assert found["modified"].isoformat() == "2023-11-14T22:13:20.123456+00:00"
    assert found["error"] is found["error_code"] is None


def test_a_file_that_failed_has_a_row_that_says_why() -> None:
    (found,) = table([row(file("a.mp4"), {"error": {"code": "decode_failed", "detail": "it broke"}})]).to_pylist()
    assert (found["error_code"], found["error"], found["label"]) == ("decode_failed", "it broke", None)


def test_parts_survive_and_are_joined_by_path(results, tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    first = results(out)
    first.open()
    first.add(table([row(file("b"), ANSWER)]))
    second = results(out)  # after the first was killed
    assert known(second.open(), retry=False) == {file("b")}
    second.add(table([row(file("a"), ANSWER), row(file("c"), ANSWER)]))
    assert second.finish().column("path").to_pylist() == ["/archive/a", "/archive/b", "/archive/c"]
    assert [each.name for each in tmp_path.iterdir()] == ["results.parquet"]
    assert pq.read_schema(out).equals(SCHEMA)


def test_a_later_row_of_a_file_takes_the_place_of_the_former(results, tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    failed = row(file("a"), {"error": {"code": "x", "detail": "y"}})
    earlier = results(out)
    earlier.open()
    earlier.add(table([failed, row(file("b"), ANSWER)]))
    earlier.finish()
    later = results(out)
    assert known(later.open(), retry=False) == {file("a"), file("b")}
    assert known(later.open(), retry=True) == {file("b")}
    later.add(table([row(file("a", size=2), ANSWER)]))
    assert known(later.finish(), retry=True) == {file("a", size=2), file("b")}


def test_what_is_half_written_is_no_part(results, tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    one = results(out)
    one.open()
    one.add(table([row(file("a"), ANSWER)]))
    (tmp_path / "results.parquet.parts" / ".part-1.parquet.draft").write_bytes(b"PAR1 and no more")
    assert known(results(out).open(), retry=False) == {file("a")}


@pytest.mark.parametrize("change", [{"top_k": 1}, {"bundles": {"color:1.0.0": "def"}}, {"window_s": 2.0}])
def test_answers_to_something_else_are_not_mixed_in(results, tmp_path: Path, change: dict[str, Any]) -> None:
    out = tmp_path / "results.parquet"
    one = results(out)
    one.open()
    one.add(table([row(file("a"), ANSWER)]))
    with pytest.raises(
        MareyError, match=r"part-\w+-\w+\.parquet has answers to something else.*name another file by --out"
    ):
        results(out, **change).open()
    one.finish()
    with pytest.raises(MareyError, match=r"results\.parquet has answers to something else"):
        results(out, **change).open()


def test_a_file_that_is_not_ours_is_neither_read_nor_written_over(results, tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    out.write_bytes(b"a letter")
    with pytest.raises(MareyError, match="no result of ours"):
        results(out).open()
    pq.write_table(table([]), out)
    with pytest.raises(MareyError, match="it is not ours"):
        results(out).open()
    assert pq.read_schema(out).metadata is None


def test_where_nothing_can_be_written_it_is_said(results, tmp_path: Path) -> None:
    (tmp_path / "results.parquet.parts").write_bytes(b"in the way")
    with pytest.raises(MareyError, match=r"results\.parquet\.parts cannot be listed as a folder.*name another"):
        results(tmp_path / "results.parquet").open()


def test_two_do_not_work_on_one_result_at_once(results, tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    one = results(out)
    one.open()
    with pytest.raises(MareyError, match=r"another run works on .*results\.parquet"):
        Results(Location.of(str(out)), ASKED).open()
    one.close()
    results(out).open()


def test_two_that_work_at_once_on_a_store_which_knows_no_locks_lose_nothing(tmp_path: Path) -> None:
    store = Location(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "results.parquet")
    one, other = Results(store, ASKED), Results(store, ASKED)
    one.open()
    other.open()
    one.add(table([row(file("a"), ANSWER)]))
    other.add(table([row(file("b"), ANSWER)]))
    assert one.finish().column("path").to_pylist() == ["/archive/a", "/archive/b"]
    other.add(table([row(file("c"), ANSWER)]))
    assert other.finish().column("path").to_pylist() == ["/archive/a", "/archive/b", "/archive/c"]
    assert [each.name for each in tmp_path.iterdir()] == ["results.parquet"]


def test_a_result_without_rows_is_gone_on_with(results, tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    empty = results(out)
    empty.open()
    assert len(empty.finish()) == 0
    later = results(out)
    later.open()
    later.add(table([row(file("a"), ANSWER)]))
    assert len(later.finish()) == 1


def test_a_folder_that_cannot_be_made_is_said_before_any_work(results, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(MareyError, match=r"results\.parquet\.parts cannot be made.*name another file by --out"):
        results(tmp_path / "file" / "results.parquet").open()
