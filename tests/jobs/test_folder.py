"""The folder of jobs: whose it is, and what is left in it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from service.errors import NotReady
from service.jobs.folder import Folder, default_folder


def test_it_lies_where_programs_keep_their_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "marey" / "jobs"
    monkeypatch.setenv("HOME", "/home/somebody")
    for unusable in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", unusable)
        assert default_folder() == Path("/home/somebody/.local/state/marey/jobs")


def test_it_is_its_owners_alone_and_one_services_at_a_time(tmp_path: Path) -> None:
    first, second = Folder(tmp_path / "a" / "jobs"), Folder(tmp_path / "a" / "jobs")
    first.open()
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
    with pytest.raises(NotReady, match="are another service's, one that runs"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_where_it_cannot_be_made_the_reason_and_the_remedy_are_given(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotReady, match=r"cannot be kept in .*file/jobs \(Not a directory\); name another folder"):
        Folder(tmp_path / "file" / "jobs").open()


def test_only_files_of_jobs_with_work_left_to_do_stay(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.open()
    for job in ("a", "b"):
        folder.draft(job).write_bytes(b"video")
        folder.keep(job)
    folder.draft("c").write_bytes(b"half a vid")
    folder.remove_all_but({"a", "z"})
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["a"]
    assert folder.file("a").read_bytes() == b"video"
    folder.remove("a")
    folder.remove("a")
    assert list((tmp_path / "files").iterdir()) == []
    folder.close()
