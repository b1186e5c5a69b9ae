"""Settings come from flags, then from the environment; a bad one is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from service.cli import main
from service.settings import Settings


def test_bundles_are_separated_as_in_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAREY_BUNDLES", "/a/one:/b/two:")
    assert Settings().bundles == (Path("/a/one"), Path("/b/two"))
    monkeypatch.setenv("MAREY_BUNDLES", "")
    assert Settings().bundles == ()


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAREY_PORT", "1234")
    assert Settings().port == 1234
    assert Settings(port=4321).port == 4321


@pytest.mark.parametrize("name", ["DECODE_TIMEOUT_S", "MAX_DURATION_S", "DRAIN_S"])
@pytest.mark.parametrize("value", ["inf", "nan", "0", "-1", "soon"])
def test_times_are_finite_and_positive(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MAREY_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_a_bad_variable_is_named_as_the_variable_and_a_bad_flag_as_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    flag = CliRunner().invoke(main, ["serve", "--port", "99999"])
    assert "--port = 99999" in flag.stderr
    monkeypatch.setenv("MAREY_DRAIN_S", "inf")
    variable = CliRunner().invoke(main, ["serve"])
    assert variable.exit_code == 2
    assert "MAREY_DRAIN_S = 'inf'" in variable.stderr


@pytest.mark.parametrize("value", ["ok.example", "https://ok.example/", "https://OK.example", "://ok.example"])
def test_an_origin_that_no_browser_sends_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MAREY_CORS_ORIGINS", f"https://fine.example,{value}")
    with pytest.raises(ValidationError, match=f"'{value}' is no origin that a site has; write scheme and host"):
        Settings()


def test_origins_are_taken_with_ports_and_of_extensions_and_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    origins = (
        "https://ok.example",
        "http://localhost:3000",
        "http://[::1]:8000",
        "chrome-extension://abcdef",
        "*",
        "null",
    )
    monkeypatch.setenv("MAREY_CORS_ORIGINS", ", ".join(origins))
    assert Settings().cors_origins == origins
