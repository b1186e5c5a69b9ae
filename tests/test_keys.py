"""Keys: made once, kept as hashes, found again, and read anew when their file changes."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from service import keys
from service.cli import main
from service.errors import InvalidKey, InvalidParameter, KeysError
from service.keys import REREAD_S, Keys


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def changed(path: Path, text: str) -> None:
    """Write `text`, with another time of change than before, however coarse the disk's clock is."""
    path.write_text(text)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))


def test_a_made_key_is_found_with_its_name_role_and_rate(path: Path) -> None:
    user = keys.add(path, "camera-1")
    admin = keys.add(path, "ops", role="admin", rate=2.5)
    known = Keys(path)
    assert (known.find(user).name, known.find(user).admin, known.find(user).rate) == ("camera-1", False, None)
    assert (known.find(admin).name, known.find(admin).admin, known.find(admin).rate) == ("ops", True, 2.5)


def test_the_file_holds_hashes_and_never_a_key_and_only_its_owner_may_read_it(path: Path) -> None:
    token = keys.add(path, "camera-1")
    assert token not in path.read_text()
    assert path.read_text() == f"camera-1 user sha256:{hashlib.sha256(token.encode()).hexdigest()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_are_long_and_never_the_same(path: Path) -> None:
    tokens = {keys.add(path, f"key{number}") for number in range(20)}
    assert len(tokens) == 20
    assert all(len(token) == len("marey_") + 43 for token in tokens), "256 bits in base64"


@pytest.mark.parametrize("wrong", ["", "x", "marey_", "é" * 50, "\udcff", "x" * 100_000])
def test_what_is_no_key_is_refused_and_not_repeated(path: Path, wrong: str) -> None:
    token = keys.add(path, "camera-1")
    known = Keys(path)
    for bad in (wrong, token[:-1], token + "x", token.upper()):
        with pytest.raises(InvalidKey) as caught:
            known.find(bad)
        assert len(bad) < 2 or bad not in str(caught.value)


def test_a_line_is_appended_to_a_file_that_lacks_its_last_newline(path: Path) -> None:
    first = keys.add(path, "a")
    path.write_text("# ours\n\n" + path.read_text().rstrip())
    second = keys.add(path, "b")
    known = Keys(path)
    assert (known.find(first).name, known.find(second).name) == ("a", "b")


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "anonymous", "-a", "x" * 65, "ä"])
def test_names_that_would_confuse_a_log_are_refused(path: Path, name: str) -> None:
    with pytest.raises(InvalidParameter, match="no name for a key"):
        keys.add(path, name)
    assert not path.exists()


def test_a_name_is_given_once(path: Path) -> None:
    keys.add(path, "a")
    with pytest.raises(InvalidParameter, match="has a key 'a' already"):
        keys.add(path, "a")
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize("rate", [0, -1, 2e6, float("nan"), float("inf")])
def test_a_rate_out_of_range_is_refused(path: Path, rate: float) -> None:
    with pytest.raises(InvalidParameter, match="requests a second"):
        keys.add(path, "a", rate=rate)


HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a user",
        "a user secret-in-clear",
        f"a root {HASH}",
        f"a user {HASH[:-1]}",
        f"a user {HASH} rate=0",
        f"a user {HASH} rate=nan",
        f"a user {HASH} 5",
        f"a user {HASH} rate=1 more",
        f"anonymous user {HASH}",
    ],
)
def test_a_broken_line_is_named_by_its_number_and_not_repeated(path: Path, line: str) -> None:
    path.write_text(f"# keys\nb user sha256:{'1' * 64}\n{line}\n")
    with pytest.raises(KeysError, match=f"line 3 of {path}") as caught:
        Keys(path)
    assert "clear" not in str(caught.value)


@pytest.mark.parametrize("second", [f"a user sha256:{'1' * 64}", f"b user {HASH}"])
def test_two_keys_of_one_name_or_one_hash_are_refused(path: Path, second: str) -> None:
    path.write_text(f"a user {HASH}\n{second}\n")
    with pytest.raises(KeysError, match="two keys of one"):
        Keys(path)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    keys.add(path, "a")
    path.chmod(mode)
    with pytest.raises(KeysError, match="chmod go-w"):
        Keys(path)
    with pytest.raises(KeysError, match="chmod go-w"):
        keys.add(path, "b")


def test_files_that_are_missing_binary_huge_or_folders_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="marey key NAME --file"):
        Keys(tmp_path / "none")
    with pytest.raises(KeysError, match="is no file"):
        Keys(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KeysError, match="is no file"):  # and is not waited for
        Keys(tmp_path / "pipe")
    for name, content in (("binary", b"\xff\xfe\x00"), ("huge", b"#" * (2**20 + 1))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(KeysError, match=name):
            Keys(tmp_path / name)
    with pytest.raises(KeysError, match="cannot be written"):
        keys.add(tmp_path / "none" / "keys", "a")


def test_a_key_that_is_added_works_and_one_that_is_removed_does_not_within_a_second(path: Path) -> None:
    clock = Clock()
    first = keys.add(path, "a")
    known = Keys(path, clock=clock)
    second = keys.add(path, "b")
    with pytest.raises(InvalidKey):
        known.find(second)
    clock.now += REREAD_S
    assert known.find(second).name == "b"
    changed(path, path.read_text().splitlines()[1] + "\n")
    clock.now += REREAD_S
    with pytest.raises(InvalidKey):
        known.find(first)
    changed(path, "")
    clock.now += REREAD_S
    with pytest.raises(InvalidKey):
        known.find(second)


def test_a_file_that_breaks_while_in_use_is_told_once_and_the_former_keys_stay(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    token = keys.add(path, "a")
    known, whole = Keys(path, clock=clock), path.read_text()
    with caplog.at_level(logging.INFO):
        for ruin in (lambda: changed(path, "broken\n"), path.unlink):
            caplog.clear()
            ruin()
            for _ in range(3):
                clock.now += REREAD_S
                assert known.find(token).name == "a"
            assert [record.levelname for record in caplog.records] == ["ERROR"]
            assert "the former 1 API keys stay in use" in caplog.text
        path.write_text(whole)
        path.chmod(0o600)
        clock.now += REREAD_S
        assert known.find(token).name == "a"
        assert "1 API keys were read" in caplog.text


def test_a_removed_key_is_out_of_the_same_file_and_the_others_stay(path: Path) -> None:
    tokens = {name: keys.add(path, name) for name in ("a", "aa", "b")}
    path.write_text("# ours\n" + path.read_text())
    before = path.stat().st_ino
    keys.remove(path, "a")
    known = Keys(path)
    assert (known.find(tokens["aa"]).name, known.find(tokens["b"]).name) == ("aa", "b")
    with pytest.raises(InvalidKey):
        known.find(tokens["a"])
    assert path.stat().st_ino == before, "a file mounted into a container is another once it is replaced"
    assert path.read_text().startswith("# ours\naa user")
    for missing in ("a", "nobody"):
        with pytest.raises(InvalidParameter, match="has no key"):
            keys.remove(path, missing)
    with pytest.raises(InvalidParameter, match="has no key"):
        keys.remove(path.with_name("none"), "a")


def test_two_that_add_at_once_lose_nothing(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: keys.add(path, f"key{number}"), range(40)))
    known = Keys(path)
    assert {known.find(token).name for token in made} == {f"key{number}" for number in range(40)}


def test_a_file_of_another_user_is_refused_with_whom_it_should_belong_to(path: Path) -> None:
    keys.add(path, "a")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(KeysError, match=f"chown {os.geteuid()}"):
        Keys(path)


def test_an_empty_file_lets_nobody_in_and_says_so(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.touch()
    known = Keys(path)
    assert "nobody may ask" in caplog.text
    with pytest.raises(InvalidKey):
        known.find("anything")


def test_the_command_prints_the_key_alone_on_stdout_and_where_it_is_kept_on_stderr(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = CliRunner().invoke(main, ["key", "camera-1", "--file", str(path), "--rate", "5"])
    assert run.exit_code == 0, run.output
    assert Keys(path).find(run.stdout.strip()).rate == 5
    assert str(path) in run.stderr
    monkeypatch.setenv("MAREY_KEYS", str(path))
    run = CliRunner().invoke(main, ["key", "ops", "--admin"])
    assert Keys(path).find(run.stdout.strip()).admin
    again = CliRunner().invoke(main, ["key", "ops"])
    assert (again.exit_code, again.stdout) == (1, "")
    assert "error: " in again.stderr
    removed = CliRunner().invoke(main, ["key", "ops", "--remove"])
    assert (removed.exit_code, removed.stdout) == (0, "")
    with pytest.raises(InvalidKey):
        Keys(path).find(run.stdout.strip())
    monkeypatch.delenv("MAREY_KEYS")
    assert CliRunner().invoke(main, ["key", "x"]).exit_code == 2
