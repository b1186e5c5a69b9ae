"""What promtool says of the configuration and the rules."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.monitoring.prometheus import configured
from tests.monitoring.queries import ALERTS, RECORDED

Program = Callable[[str], str]


@pytest.fixture
def promtool(program: Program, tmp_path: Path) -> Callable[..., str]:
    """Run beside the files as they lie in the container, unchanged."""
    configured(tmp_path)

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [program("promtool"), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    return run


def test_the_configuration_is_valid(promtool) -> None:
    assert "is valid prometheus config file" in promtool(
        "check", "config", "--lint=all", "--lint-fatal", "prometheus.yml"
    )


def test_the_rules_are_valid_and_none_is_there_twice(promtool) -> None:
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", "rules/marey.yml")
    assert f"{len(ALERTS) + len(RECORDED)} rules found" in said


def test_every_alert_fires_where_it_must_and_is_silent_where_it_must_not(promtool) -> None:
    assert "SUCCESS" in promtool("test", "rules", "rules/marey.test.yml")
