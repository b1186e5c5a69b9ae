"""What an exception of Keras, TensorFlow or a converter says, in one line."""

from __future__ import annotations

import re

_NOISE = re.compile(r"\x1b\[[0-9;]*m|\{\{function_node [^}]*\}\}")
# Lines that Keras puts around what went wrong.
_AROUND = ("Exception encountered when calling", "Arguments received by", "•")


def reason(error: BaseException) -> str:
    """The first line that says what went wrong; the kind of the exception where there is none."""
    lines = [_NOISE.sub("", line).strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_AROUND)]
    return f"{type(error).__name__}: {telling[0]}" if telling else type(error).__name__
