"""Which of two versions is the newer one.

Versions are compared field by field, numbers as numbers: 1.10 is newer than 1.9, and 1.0 is 1. A pre-release is older than what
it precedes: 2.0-rc1 and 2.0rc1 come before 2.0, as in Semantic Versioning; a leading v and what follows a + do not count.
"""

from __future__ import annotations

import re
from itertools import takewhile

Field = tuple[int, int, str]

# A field that is missing ranks between letters, which announce a release, and numbers, which follow one.
_LETTERS, _END, _NUMBER = 0, 1, 2
_ANNOUNCED: Field = (_LETTERS, 0, "")


def age(version: str) -> tuple[tuple[Field, ...], str]:
    """A key to sort versions by, oldest first. Equal releases, such as 1 and 1.0, are ranked by their text."""
    release, _, _build = version.partition("+")
    core, dash, announced = release.partition("-")
    fields = _fields(re.sub(r"^[vV](?=\d)", "", core))
    numbers = list(takewhile(lambda field: field[0] == _NUMBER, fields))
    rest = fields[len(numbers) :]
    while numbers and numbers[-1] == (_NUMBER, 0, ""):
        numbers.pop()
    before = [_ANNOUNCED, *_fields(announced)] if dash else []
    return (*numbers, *rest, *before, (_END, 0, "")), version


def _fields(text: str) -> list[Field]:
    return [
        (_NUMBER, int(run), "") if run.isdigit() else (_LETTERS, 0, run.lower())
        for run in re.findall(r"[0-9]+|[A-Za-z]+", text)
    ]
