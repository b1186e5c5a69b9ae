"""A document that programs can rely on, and lines that fit the terminal."""

from __future__ import annotations

import click
import pytest
from pydantic import ValidationError

from service.doctor.report import Check, Report, info, no, ok, render, verdict

REPORT = Report(
    marey="1.0",
    ok=True,
    engine="openvino",
    sections={
        "gpu": (no("gpu", "none " * 30, "buy one"),),
        "engines": (ok("openvino", "runs here", engine="openvino"), info("a-longer-name", "neither")),
    },
)


def test_a_no_without_a_remedy_and_a_remedy_without_a_no_are_refused() -> None:
    with pytest.raises(ValidationError, match="a remedy goes with 'no'"):
        Check(name="gpu", state="no", says="none")
    with pytest.raises(ValidationError, match="a remedy goes with 'no'"):
        Check(name="gpu", state="ok", says="one", remedy="sell it")


def test_the_document_comes_back_as_it_was() -> None:
    assert Report.model_validate_json(REPORT.model_dump_json()) == REPORT


def test_on_a_terminal_lines_are_wrapped_within_their_column() -> None:
    lines = click.unstyle(render(REPORT, width=72)).splitlines()
    assert max(map(len, lines[:-1])) <= 72
    told = [line for line in lines if "none" in line]
    assert len(told) > 1
    assert {line.index("none") for line in told} == {6 + len("a-longer-name") + 2}
    assert lines[-1] == "1 of 2 engines run here (openvino); marey serve takes openvino."


def test_elsewhere_each_check_is_one_line() -> None:
    lines = click.unstyle(render(REPORT, width=None)).splitlines()
    assert [line[2:4] for line in lines if line.startswith("  ") and "remedy" not in line] == ["no", "ok", "--"]


def test_an_engine_that_the_settings_ask_for_and_that_does_not_run_is_no_success_of_serve() -> None:
    assert "marey serve fails" in verdict(REPORT.model_copy(update={"engine": None}))
