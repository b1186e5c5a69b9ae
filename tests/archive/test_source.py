"""Which files an archive has, and how they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.archive.source import File, Location
from service.errors import MareyError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.mp4",
        "a.jpg",
        "deep/er/c.MP4",
        ".hidden/d.mp4",
        "deep/.e.mp4",
        "results.parquet",
        "results.parquet.parts/p",
    ):
        path = tmp_path / "archive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "archive"


def names(files: list[File], folder: Path) -> list[str]:
    return [str(Path(file.path).relative_to(folder)) for file in files]


def test_all_that_is_not_hidden_below_the_folder_is_listed_by_path(folder: Path) -> None:
    out = Location.of(str(folder / "results.parquet"))
    files = Location.of(str(folder)).files(but=(out,))
    assert names(files, folder) == ["a.jpg", "b.mp4", "deep/er/c.MP4"]
    assert [file.size for file in files] == [5, 5, 13]
    assert all(file.modified == Path(file.path).stat().st_mtime_ns // 1000 for file in files)


@pytest.mark.parametrize(
    ("match", "expected"),
    [(("*.mp4",), ["b.mp4"]), (("*.mp4", "*.MP4"), ["b.mp4", "deep/er/c.MP4"]), (("*.avi",), [])],
)
def test_patterns_choose_by_name(folder: Path, match: tuple[str, ...], expected: list[str]) -> None:
    assert names(Location.of(str(folder)).files(match=match), folder) == expected


def test_a_folder_and_its_uri_are_one_place(folder: Path) -> None:
    by_uri = Location.of(folder.as_uri())
    assert by_uri.files() == Location.of(str(folder)).files()
    assert by_uri.read(str(folder / "deep/er/c.MP4")) == b"deep/er/c.MP4"


def test_what_is_not_there_is_said_with_its_name(folder: Path) -> None:
    place = Location.of(str(folder))
    with pytest.raises(MareyError, match=r"gone\.mp4 cannot be read"):
        place.read(str(folder / "gone.mp4"))
    with pytest.raises(MareyError, match="nowhere cannot be listed as a folder"):
        Location.of(str(folder / "nowhere")).files()
    with pytest.raises(MareyError, match=r"s4://bucket/a cannot be reached.*s3://BUCKET/PREFIX"):
        Location.of("s4://bucket/a")


def test_links_to_files_count_and_links_to_folders_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.mp4").write_bytes(b"x")
    (folder / "loop").symlink_to(folder)
    (folder / "out").symlink_to(tmp_path / "elsewhere")
    (folder / "link.mp4").symlink_to(tmp_path / "elsewhere" / "x.mp4")
    (folder / "nothing.mp4").symlink_to(tmp_path / "gone")
    os.mkfifo(folder / "pipe.mp4")
    assert names(Location.of(str(folder)).files(match=("*.mp4",)), folder) == ["b.mp4", "link.mp4"]


def test_a_name_that_is_no_text_is_a_file_that_cannot_be_read(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.mp4"))).write_bytes(b"x")
    (found,) = Location.of(str(folder)).files(match=("bad*",))
    assert found.path == f"{folder}/bad\\xff.mp4"
    with pytest.raises(MareyError, match="cannot be read"):
        Location.of(str(folder)).read(found.path)


def test_only_the_result_itself_is_left_out(folder: Path) -> None:
    (folder / "results.parquet2").write_bytes(b"another's")
    files = Location.of(str(folder)).files(but=(Location.of(str(folder / "results.parquet")),))
    assert "results.parquet2" in names(files, folder)
