"""README tells the truth where a test can know it."""

from __future__ import annotations

import re
from pathlib import Path

from service import errors
from service.api.problems import HTTP_CODES
from service.settings import Settings

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_described_and_none_that_does_not_exist() -> None:
    described = set(re.findall(r"^\| `MAREY_([A-Z_]+)`", README, flags=re.MULTILINE))
    assert described == {name.upper() for name in Settings.model_fields}


def test_every_error_code_is_described_and_none_that_does_not_exist() -> None:
    def codes(kind: type[errors.MareyError]) -> set[str]:
        return {kind.code}.union(*(codes(each) for each in kind.__subclasses__() if each.__module__ == errors.__name__))

    # Bases that are never raised themselves, and what is raised before there is a request.
    raised = codes(errors.MareyError) - {"bad_request", "unavailable", "bundle", "keys"} | set(HTTP_CODES.values())
    table = README.split("`application/problem+json` with a `code`")[1].split("## Configuration")[0]
    described = {
        code
        for row in re.findall(r"^\| [\d, ]+ \| ([^|]+) \|", table, flags=re.MULTILINE)
        for code in re.findall(r"`(\w+)`", row)
    }
    assert described == raised


def test_nothing_in_readme_is_left_to_fill_in() -> None:
    assert "@@" not in README
