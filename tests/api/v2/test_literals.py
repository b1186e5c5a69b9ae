"""Numbers of a JSON body: read apart from it, to the same effect as reading all of it at once."""

from __future__ import annotations

import json
import time
import tracemalloc

import numpy as np
import pytest

from service.api.v2.literals import Numbers, parse
from service.errors import InvalidParameter, Malformed, TooLarge


def numbers(text: str, *, datatype: str = "UINT8", count: int = 4) -> list[float]:
    found = parse(f'{{"data": {text}}}'.encode())["data"]
    assert isinstance(found, Numbers)
    return found.read(datatype, count, name="x").tolist()


@pytest.mark.parametrize(
    "text", ["[1,2,3,4]", "[[1,2],[3,4]]", "[[[1],[2]],[[3],[4]]]", " [ 1 ,\n2,\t3,4 ] ", "[[1,2,3,4]]"]
)
def test_flat_and_nested_numbers_are_read_row_by_row(text: str) -> None:
    assert numbers(text) == [1, 2, 3, 4]


@pytest.mark.parametrize("text", ["[0.5, -1e-3, 3, 1E2]", "[[0.5,-0.001],[3.0,100]]"])
def test_floats_are_read_as_json_writes_them(text: str) -> None:
    assert numbers(text, datatype="FP32") == np.array([0.5, -1e-3, 3, 100], np.float32).tolist()


@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_long_arrays_are_put_together_from_stretches(datatype: str) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 256, 200_000) if datatype == "UINT8" else rng.normal(size=200_000).astype(np.float32)
    found = numbers(json.dumps(values.reshape(200, 1000).tolist()), datatype=datatype, count=200_000)
    assert found == values.tolist()


def test_what_is_no_array_of_numbers_stays_as_it_is() -> None:
    said = {
        "id": 'a "data":[1] in a string',
        "data": ["a", "b"],
        "inputs": [{"data": 5}, {"data": {"data": [{}]}}, {"data": "[1]"}],
        "more": [1, 2],
    }
    assert parse(json.dumps(said).encode()) == said


def test_an_index_that_a_client_wrote_is_no_index() -> None:
    """`[0]` stands for the first array inside; one that stands in the body is an array like any other."""
    found = parse(b'{"a": {"data": [7, 8]}, "b": {"data": [0]}}')
    assert found["b"]["data"].read("UINT8", 1, name="b").tolist() == [0]
    assert found["a"]["data"].read("UINT8", 2, name="a").tolist() == [7, 8]


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("[1,2,3]", "3, fewer numbers than the 4"),
        ("[1,2,3,4,5]", "more numbers than the 4"),
        ("[1]", "fewer numbers"),
        ("[1,2,3,256]", "integers from 0 to 255"),
        ("[1,2,3,-1]", "integers from 0 to 255"),
        ("[1,2,3,4.0]", "integers from 0 to 255"),
        ("[1,2,3,99999999999999999999]", "integers from 0 to 255"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(text: str, saying: str) -> None:
    with pytest.raises(InvalidParameter, match=saying):
        numbers(text)


@pytest.mark.parametrize("text", ["[1e39,1,1,1]", "[1e999,1,1,1]", "[1,1,1,%s]" % ("9" * 60)])
def test_floats_that_overflow_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="FP32 cannot hold"):
        numbers(text, datatype="FP32")


@pytest.mark.parametrize(
    "text",
    [
        "[1,2,3,4,]", "[1,,2,3]", "[1 2,3,4]", "[1][2],[3,4]", "[[1,2],[3,4]", "[1,2]],[[3,4]", "[1,2,[],3]", "[]", "[1,2,3,0x4]",
        "[1,2,3,NaN]", "[1,2,3,true]", "[1,2,3,+4]", "[1,2,3,04]", "[1,2,3,.]", "[1,2,3,%s]" % ("9" * 5000),
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises((Malformed, InvalidParameter)):
        numbers(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[1,true,2,3]", "true"),
        ("[true,false,true]", "true"),
        ("[1,2, false]", "false"),
        ("[1,0x4,2]", "0x4"),
        ("[1,1e5x,2]", "1e5x"),
        ("[1,NaN]", "NaN"),
        ("[1,%s]" % ("t" * 200_000), "t" * 20),
    ],
    ids=["true", "first", "false", "hex", "exponent", "nan", "long"],
)
def test_what_is_no_number_is_named_as_it_was_written_and_once(text: str, shown: str) -> None:
    with pytest.raises(Malformed, match=f"the data of 'x' has '{shown}' among its numbers; send numbers only"):
        numbers(text)


def test_an_integer_that_python_would_not_read_is_refused_without_pythons_advice() -> None:
    long = "9" * 5000
    with pytest.raises(InvalidParameter, match=r"has an integer of more than 4300 digits; send numbers of UINT8$"):
        numbers(f"[1,2,3,{long}]")
    with pytest.raises(Malformed, match=r"the JSON has an integer of more than 4300 digits; send shorter ones$"):
        parse(b'{"id": %s}' % long.encode())


def test_a_comma_at_the_end_of_a_long_array_is_refused() -> None:
    with pytest.raises(Malformed):
        numbers("[" + "1," * 2**17 + "]", count=2**17)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"data": [1}', b'{"a": 1} x'])
def test_bodies_that_are_no_json_are_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match="the body is not JSON"):
        parse(body)


def test_a_large_rest_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(TooLarge, match="262144 are allowed"):
        parse(b'{"id": "' + b"x" * 2**20 + b'"}')


def test_many_arrays_are_refused_and_cost_no_time() -> None:
    """Each looks for its end: that must not mean looking through all the rest, each time."""
    began = time.monotonic()
    for piece in (b'"data":[1],', b'{"data":[1', b'"data":["', b'"data":[}', b'"data":[{"'):
        with pytest.raises(Malformed, match="more than 16 arrays"):
            parse(piece * 2_000_000)
    assert time.monotonic() - began < 2


def test_reading_takes_little_more_memory_than_the_tensor() -> None:
    body = b'{"data": [' + b"200," * 500_000 + b"7]}"
    tracemalloc.start()
    try:
        found = parse(body)["data"].read("UINT8", 500_001, name="x")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found[-1] == 7
    assert peak < 1.5 * 2**20  # json.loads of all of it takes 4 MiB for pointers alone
