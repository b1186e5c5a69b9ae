"""The numbers of a JSON body, read a stretch at a time.

# Note [Numbers apart]
A clip as JSON is megabytes of numbers: `json.loads` of all of it holds the interpreter, and with it every other request, for
seconds, and makes an object of each. So the arrays under "data" are cut out by their ends, which costs next to nothing; what
is left is small; and the numbers are read 64 KiB at a time, in a thread, straight into the tensor.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidParameter, Malformed, TooLarge

# What is left without the numbers; and how many arrays of them there may be: a network here has one input.
_MAX_REST = 2**18
_MAX_ARRAYS = 16
_STRETCH = 2**16
_KEY = re.compile(rb'"data"\s*:\s*\[')
# Tensors are read in row-major order, nested or flat.
_FLAT = bytes.maketrans(b"[]", b"  ")
_OF_NUMBERS = b"0123456789+-.eE, \t\r\n"
_FOREIGN = re.compile(b"[^%b]" % re.escape(_OF_NUMBERS))
_APART = re.compile(rb"[, \t\r\n]")
_RANGES = {"UINT8": (0, 255)}


@dataclass(frozen=True, slots=True)
class Numbers:
    """An array of numbers as it stands in `body` from `start` to `stop`, its brackets included."""

    body: bytes | bytearray
    start: int
    stop: int

    def read(self, datatype: str, count: int, *, name: str) -> NDArray[np.generic]:
        """All of them as one flat array of `count` elements, UINT8 or FP32. Raises Malformed or InvalidParameter."""
        if count > self.stop - self.start:  # before memory is taken for them
            raise InvalidParameter(_miscounted(name, "fewer", count))
        found: NDArray[np.generic] = np.empty(count, np.uint8 if datatype == "UINT8" else np.float32)
        filled = depth = 0
        start = self.start
        while start < self.stop:
            comma = self.body.find(b",", start + _STRETCH, self.stop)
            end = comma if comma >= 0 else self.stop
            text = bytes(self.body[start:end])
            depth = _depth(text, depth, last=end == self.stop, name=name)
            values = _values(text.translate(_FLAT), datatype, name)
            if filled + len(values) > count:
                raise InvalidParameter(_miscounted(name, "more", count))
            found[filled : filled + len(values)] = values
            filled += len(values)
            start = end + 1
        if filled < count:
            raise InvalidParameter(_miscounted(name, f"{filled}, fewer", count))
        return found


def parse(body: bytes | bytearray) -> Any:
    """What `body` says as JSON, with `Numbers` for every array of numbers under a key "data".

    Raises Malformed or TooLarge.
    """
    rest, arrays = _apart(body)
    if len(rest) > _MAX_REST:
        raise TooLarge(
            f"the JSON has {len(rest)} bytes beside its numbers, {_MAX_REST} are allowed; send a plain request"
        )

    def inserted(fields: dict[str, Any]) -> dict[str, Any]:
        data = fields.get("data")
        if isinstance(data, list) and len(data) == 1 and type(data[0]) is int and 0 <= data[0] < len(arrays):
            fields["data"] = arrays[data[0]]
        return fields

    try:
        found = json.loads(rest.decode(), object_hook=inserted)
    except (ValueError, RecursionError) as error:
        if _is_too_long(error):
            raise Malformed(f"the JSON has {_too_long()}; send shorter ones") from None
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise Malformed(
            f"the body is not JSON ({reason}); where binary tensors follow the JSON, say its length in the header "
            "Inference-Header-Content-Length"
        ) from None
    return found


def _apart(body: bytes | bytearray) -> tuple[bytes, list[Numbers]]:
    """`body` with each array of numbers under "data" replaced by its place in the list, as `[0]`.

    `"data"` with both quotes is always a whole string of valid JSON, and no quote or brace stands between numbers.
    """
    arrays: list[Numbers] = []
    view, kept, done, start, keys = memoryview(body), bytearray(), 0, 0, 0
    while match := _KEY.search(body, start):
        first = match.end() - 1
        quote = body.find(b'"', first)
        limit = quote if quote >= 0 else len(body)
        brace = body.find(b"}", first, limit)
        last = body.rfind(b"]", first, brace if brace >= 0 else limit)
        start, keys = first + 1, keys + 1
        if keys > _MAX_ARRAYS:
            raise Malformed(f"the JSON has more than {_MAX_ARRAYS} arrays under data; send one for each input")
        if last < 0:
            continue  # no array of numbers: whatever it is, the parser sees it
        kept += view[done:first]
        kept += b"[%d]" % len(arrays)
        arrays.append(Numbers(body, first, last + 1))
        start = done = last + 1
    kept += view[done:]
    return bytes(kept), arrays


def _depth(text: bytes, before: int, *, last: bool, name: str) -> int:
    """How many brackets are open after `text`: none after the last stretch, and some at every place before."""
    codes = np.frombuffer(text, np.uint8)
    codes = codes[(codes == ord("[")) | (codes == ord("]"))]
    depths = before + np.cumsum(np.where(codes == ord("["), 1, -1))
    inside = depths[:-1] if last else depths
    after = int(depths[-1]) if len(depths) else before
    if (inside < 1).any() or (after == 0) != last:
        raise Malformed(f"the brackets in the data of {name!r} do not match; send valid JSON")
    return after


def _values(text: bytes, datatype: str, name: str) -> NDArray[np.generic]:
    if text.translate(None, _OF_NUMBERS) and (foreign := _FOREIGN.search(text)):  # the search is slow
        at = foreign.start()
        before, after = _APART.split(text[max(0, at - 20) : at])[-1], _APART.split(text[at : at + 20])[0]
        shown = (before + after).decode(errors="replace")
        raise Malformed(f"the data of {name!r} has {shown!r} among its numbers; send numbers only")
    try:
        values = np.array(json.loads(b"[%b]" % text))
    except ValueError as error:
        if _is_too_long(error):
            raise InvalidParameter(f"the data of {name!r} has {_too_long()}; send numbers of {datatype}") from None
        raise Malformed(f"the data of {name!r} is not JSON: {str(error)[:100]}") from None
    if not len(values):
        raise Malformed(f"the data of {name!r} is empty, or ends with a comma; send its numbers")
    if datatype == "FP32":
        with np.errstate(over="ignore"):
            cast = values.astype(np.float32) if values.dtype.kind in "iuf" else np.full(1, np.inf, np.float32)
        if not np.isfinite(cast).all():
            raise InvalidParameter(f"the data of {name!r} has a number that FP32 cannot hold; its largest is 3.4e38")
        return cast
    low, high = _RANGES[datatype]
    if values.dtype.kind != "i" or values.min() < low or values.max() > high:
        raise InvalidParameter(
            f"the data of {name!r} has a number that is no {datatype}; send integers from {low} to {high}"
        )
    return values


def _is_too_long(error: ValueError | RecursionError) -> bool:
    """Whether it is Python's own refusal of an integer: all that it says on that is how to set Python up."""
    return type(error) is ValueError


def _too_long() -> str:
    return f"an integer of more than {sys.get_int_max_str_digits()} digits"


def _miscounted(name: str, than: str, count: int) -> str:
    return f"the data of {name!r} has {than} numbers than the {count} of its shape; send as many as the shape says"
