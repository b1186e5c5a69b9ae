"""The command in a bundle can be typed by anybody."""

from __future__ import annotations

import pytest

from models.provenance import run_again


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "marey-build run fight --data ../shared/data --out models/bundles/fight",
            "marey-build run fight --data DATA --out BUNDLE",
        ),
        (
            "marey-build run /home/me/mine.toml --data=/srv/d --out /tmp/b --work /tmp/w --results r --json --max-drop 0.02",
            "marey-build run mine.toml --data DATA --out BUNDLE --max-drop 0.02",
        ),
        (
            "marey-build run fight --set architecture.units=8 --set 'name=\"a b\"' --data d --out o --force",
            "marey-build run fight --set architecture.units=8 --set 'name=\"a b\"' --data DATA --out BUNDLE --force",
        ),
    ],
)
def test_a_command_keeps_what_matters_and_no_folder_of_this_machine(typed: str, told: str) -> None:
    assert run_again(typed) == told
