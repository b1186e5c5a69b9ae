"""Who yields to whom while something waits for a decoder or the device."""

from __future__ import annotations

from typing import Literal, get_args

# Somebody waits for the answer; or nobody does, and it takes what the others leave.
Priority = Literal["interactive", "bulk"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
