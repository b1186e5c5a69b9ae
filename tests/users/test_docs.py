"""The documentation lists the very models that are tested."""

from __future__ import annotations

from pathlib import Path

from tests.users.cases import table

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own-model.md"


def test_the_table_of_models_is_that_of_the_tests() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")
