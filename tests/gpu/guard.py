"""With MAREY_REQUIRE_GPU=1 what was skipped has failed, whatever the reason: a GPU run can never be green by skipping."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

VARIABLE = "MAREY_REQUIRE_GPU"


def required() -> bool:
    return os.environ.get(VARIABLE, "0") not in ("", "0")


def pytest_configure(config: pytest.Config) -> None:
    if required():  # a module that cannot be collected must not keep the others from running; it fails all the same
        config.option.continue_on_collection_errors = True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Skips in marks, fixtures and tests, and failures that were expected."""
    report: pytest.TestReport = yield
    return _refused(report)  # type: ignore[return-value]  # what a wrapper hands on


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Iterator[None]:
    """Skips of whole modules, by importorskip or otherwise."""
    report: pytest.CollectReport = yield
    return _refused(report)  # type: ignore[return-value]


def _refused(report: pytest.TestReport | pytest.CollectReport) -> pytest.TestReport | pytest.CollectReport:
    if required() and report.outcome == "skipped":
        told = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{VARIABLE} is set, and this did not run: {told}"
        vars(report).pop("wasxfail", None)
    return report
