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
