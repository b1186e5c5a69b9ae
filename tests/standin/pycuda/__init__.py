"""Stands in for PyCUDA 2026.1 as far as Marey uses it; see tests/standin/README.md."""

from __future__ import annotations

VERSION = (2026, 1)
VERSION_STATUS = ""
VERSION_TEXT = ".".join(str(x) for x in VERSION) + VERSION_STATUS
