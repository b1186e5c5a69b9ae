"""What the doctor found: a document for programs, and the same as lines for people."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Literal, Self

import click
from pydantic import BaseModel, ConfigDict, Field, model_validator

State = Literal["ok", "no", "info"]
Fact = str | bool | int | float | list[str] | None
Section = Literal[
    "settings", "machine", "gpu", "tensorrt", "pycuda", "openvino", "onnxruntime", "opencv", "images", "bundles", "cache", "engines"
]  # fmt: skip

_MARKS: dict[State, tuple[str, str]] = {"ok": ("ok", "green"), "no": ("no", "red"), "info": ("--", "cyan")}
_NARROWEST = 40


class Check(BaseModel):
    """One thing that was looked at. `facts` hold what `says` says, for programs; their names do not change within a schema.

    `no`: it does not work, and `remedy` is what to type or to do; `info`: neither good nor bad.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: State
    says: str
    remedy: str | None = None
    facts: dict[str, Fact] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_without_a_remedy(self) -> Self:
        if (self.state == "no") != bool(self.remedy):
            raise ValueError(f"a remedy goes with 'no' and only with it; {self.name} is {self.state!r}: {self.says}")
        return self


class Report(BaseModel):
    """The whole examination. `ok`: at least one engine ran; `engine`: what `marey serve` takes
    by the settings, if it runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    marey: str
    ok: bool
    engine: str | None
    sections: dict[Section, tuple[Check, ...]]


def no(name: str, says: str, remedy: str, /, **facts: Fact) -> Check:
    return Check(name=name, state="no", says=says, remedy=remedy, facts=facts)


def ok(name: str, says: str, /, **facts: Fact) -> Check:
    return Check(name=name, state="ok", says=says, facts=facts)


def info(name: str, says: str, /, **facts: Fact) -> Check:
    return Check(name=name, state="info", says=says, facts=facts)


def render(report: Report, *, width: int | None) -> str:
    """Lines in columns, wrapped at `width` (None: not at all), with colours that `click.echo` drops outside a terminal."""
    column = 2 + max(len(check.name) for checks in report.sections.values() for check in checks)
    lines = [f"marey {report.marey}"]
    for section, checks in report.sections.items():
        lines += ["", click.style(section, bold=True)]
        for check in checks:
            lines += _lines(check, column=column, width=width)
    return "\n".join([*lines, "", verdict(report)])


def verdict(report: Report) -> str:
    """The last line: whether anything runs here, and what `marey serve` would take."""
    engines = report.sections.get("engines", ())
    running = [check.name for check in engines if check.state == "ok"]
    taken = f"takes {report.engine}" if report.engine else "fails, for the settings ask for another"
    if not running:
        return "No engine runs here: see the remedies above."
    return f"{len(running)} of {len(engines)} engines run here ({', '.join(running)}); marey serve {taken}."


def _lines(check: Check, *, column: int, width: int | None) -> Sequence[str]:
    mark, color = _MARKS[check.state]
    margin = " " * (6 + column)
    texts = [check.says, *([f"remedy: {check.remedy}"] if check.remedy else [])]
    room = None if width is None else max(_NARROWEST, width - len(margin))
    rows = [row for text in texts for row in (_wrap(text, room) or [""])]
    return [f"  {click.style(mark, fg=color)}  {check.name:<{column}}{rows[0]}", *(margin + row for row in rows[1:])]


def _wrap(text: str, room: int | None) -> list[str]:
    if room is None:
        return text.splitlines()
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
