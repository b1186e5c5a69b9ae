"""The answer's body: JSON, and behind it the tensors that were asked for as bytes."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.api.v2.inference import Wanted
from service.api.v2.tensors import classified, packed, to_bytes
from service.errors import InvalidParameter

# Numbers written as JSON in one answer: each is a dozen bytes, and time in which the interpreter does nothing else.
MAX_JSON_NUMBERS = 2**18
# What is written at once: about a millisecond.
_STRETCH = 4096
# Of more numbers than this the answer is written in a thread, which yields to the event loop between stretches.
SMALL = 2 * _STRETCH


@dataclass(frozen=True, slots=True)
class Written:
    """`body`, whose first `header_bytes` are JSON and all else tensors; None: it is all JSON."""

    body: bytes
    header_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An output in either of its two forms."""

    datatype: str
    shape: tuple[int, ...]
    as_bytes: Callable[[], bytes]
    as_json: Callable[[], str]


def refuse_unless_sayable(shapes: Mapping[str, Sequence[int]], wanted: Sequence[Wanted]) -> None:
    """Raise InvalidParameter where `write` would put too many numbers, or classes, of outputs of `shapes` into words."""
    count = 0
    for each in wanted:
        shape = shapes[each.name]
        if each.classes:
            count += shape[0] * min(each.classes, shape[1])
        elif not each.binary:
            count += math.prod(shape)
    if count > MAX_JSON_NUMBERS:
        raise InvalidParameter(
            f"the answer would have {count} numbers in words, {MAX_JSON_NUMBERS} are allowed; ask for it as bytes: "
            '"parameters": {"binary_data_output": true}'
        )


def write(
    outputs: Mapping[str, NDArray[np.float32]],
    wanted: Sequence[Wanted],
    *,
    head: Mapping[str, Any],
    labels: Sequence[str],
) -> Written:
    """`head`'s fields and the `wanted` ones of `outputs`. Raises InvalidParameter for what JSON cannot say."""
    tensors: list[str] = []
    blocks: list[bytes] = []
    for each in wanted:
        array = outputs[each.name]
        if each.classes:
            shape, classes = classified(array, each.classes, labels)
            tensor = _Tensor("BYTES", shape, partial(packed, classes), partial(_words, classes))
        else:
            tensor = _Tensor("FP32", array.shape, partial(to_bytes, array), partial(_numbers, each.name, array))
        said = {"name": each.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if each.binary:
            blocks.append(tensor.as_bytes())
            tensors.append(json.dumps({**said, "parameters": {"binary_data_size": len(blocks[-1])}}))
        else:
            tensors.append(f'{json.dumps(said)[:-1]}, "data": {tensor.as_json()}}}')
    text = f'{json.dumps(head)[:-1]}, "outputs": [{", ".join(tensors)}]}}'.encode()
    return Written(b"".join([text, *blocks]), len(text) if blocks else None)


def compressed(body: bytes, coding: str) -> bytes:
    """`body` as `gzip` or `deflate`, quickly rather than small."""
    deflater = zlib.compressobj(level=1, wbits=zlib.MAX_WBITS + (16 if coding == "gzip" else 0))
    return deflater.compress(body) + deflater.flush()


def _words(items: Sequence[bytes]) -> str:
    return json.dumps([item.decode() for item in items])


def _numbers(name: str, array: NDArray[np.float32]) -> str:
    if not np.isfinite(array).all():
        raise InvalidParameter(
            f"output {name!r} has values that are no finite numbers, which JSON cannot say; ask for it as bytes (binary_data)"
        )
    return f"[{','.join(_stretches(array.ravel()))}]"


def _stretches(flat: NDArray[np.float32]) -> Iterator[str]:
    """Nine digits give every float32 back exactly."""
    for start in range(0, len(flat), _STRETCH):
        values = flat[start : start + _STRETCH].tolist()
        yield ",".join(["%.9g"] * len(values)) % tuple(values)
