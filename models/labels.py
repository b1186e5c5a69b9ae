"""The names of the classes, from a text file of the user's."""

from __future__ import annotations

from pathlib import Path

from models.errors import ExportRefused


def read_labels(file: Path) -> tuple[str, ...]:
    """One class name a line; empty lines at the end do not count. Raises ExportRefused for fewer than two, an empty one, or one twice."""
    try:
        names = tuple(name.strip() for name in file.read_text(encoding="utf-8-sig").rstrip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ExportRefused(
            f"{file} cannot be read as labels ({error}); give a text file with one class name a line"
        ) from None
    for number, name in enumerate(names):
        if not name:
            raise ExportRefused(
                f"{file}: line {number + 1} is empty; name the class of that output, or remove the line where there is none"
            )
        if name in names[:number]:
            raise ExportRefused(f"{file} names {name!r} twice; each class needs a name of its own")
    if len(names) < 2:
        raise ExportRefused(
            f"{file} holds {len(names)} label(s), at least 2 are needed; a model of one output is given as two classes, the one it answers 0 for first"
        )
    return names
