"""docs/scaling.md shows what its commands print: each is run again on the figures beside it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.cli import main
from service.plan.figures import read_figures
from service.plan.figures_table import figures_table

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "scaling.md").read_text(encoding="utf-8")
PLANS = re.findall(
    r"^    \$ (marey plan nodes [^\n]+)\n((?:    (?!\$ )[^\n]*\n|\n(?=    (?!\$ )))+)", PAGE, flags=re.MULTILINE
)


def unindented(block: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in block.splitlines()).strip()


def test_the_page_shows_plans() -> None:
    assert len(PLANS) >= 4


@pytest.mark.parametrize(("command", "printed"), PLANS, ids=[command for command, _ in PLANS])
def test_a_plan_on_the_page_is_what_the_command_prints(
    command: str, printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(DOCS.parent)
    told = CliRunner().invoke(main, shlex.split(command)[1:]).stdout
    assert told.strip() == unindented(printed)


@pytest.mark.parametrize("bundle", ["fight", "imagenet"])
def test_the_figures_on_the_page_are_those_of_the_files_beside_it(bundle: str) -> None:
    table = figures_table(read_figures(DOCS / "figures" / f"{bundle}.json"))
    shown = "\n".join(f"    {line}".rstrip() for line in table.splitlines())
    assert shown in PAGE
