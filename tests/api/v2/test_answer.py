"""Answers in words and in bytes."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest

from service.api.v2.answer import MAX_JSON_NUMBERS, compressed, refuse_unless_sayable, write
from service.api.v2.inference import Wanted
from service.errors import InvalidParameter

HEAD = {"model_name": "m", "id": 'a"b'}


def test_every_float_comes_back_to_the_last_bit() -> None:
    rng = np.random.default_rng(5)
    values = rng.integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    values = values[np.isfinite(values)].reshape(1, -1)
    written = write({"x": values}, [Wanted("x", binary=False)], head=HEAD, labels=())
    said = json.loads(written.body)
    assert written.header_bytes is None
    assert said["id"] == 'a"b'
    np.testing.assert_array_equal(np.array(said["outputs"][0]["data"], np.float32), values[0])


def test_words_and_bytes_may_be_mixed_in_the_order_asked_for() -> None:
    outputs = {
        "a": np.ones((1, 2), np.float32),
        "b": np.full((1, 1), 2, np.float32),
        "c": np.full((1, 1), 3, np.float32),
    }
    wanted = [Wanted("c", binary=True), Wanted("b", binary=False), Wanted("a", binary=True)]
    written = write(outputs, wanted, head=HEAD, labels=())
    assert written.header_bytes is not None
    said = json.loads(written.body[: written.header_bytes])["outputs"]
    assert [each["name"] for each in said] == ["c", "b", "a"]
    assert said[1]["data"] == [2]
    assert said[2]["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(written.body[written.header_bytes :], np.float32).tolist() == [3, 1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_json_cannot_say_is_refused_and_bytes_say_it(value: float) -> None:
    outputs = {"x": np.array([[0.5, value]], np.float32)}
    with pytest.raises(InvalidParameter, match="'x' has values that are no finite numbers"):
        write(outputs, [Wanted("x", binary=False)], head=HEAD, labels=())
    written = write(outputs, [Wanted("x", binary=True)], head=HEAD, labels=())
    np.testing.assert_array_equal(np.frombuffer(written.body[-8:], np.float32), outputs["x"][0])


def test_large_answers_in_words_are_refused_with_the_remedy() -> None:
    shapes = {"x": (2, MAX_JSON_NUMBERS)}
    refuse_unless_sayable(shapes, [Wanted("x", binary=True)])
    refuse_unless_sayable(shapes, [Wanted("x", binary=False, classes=5)])
    with pytest.raises(
        InvalidParameter, match=f"524288 numbers in words, {MAX_JSON_NUMBERS} are allowed.*binary_data_output"
    ):
        refuse_unless_sayable(shapes, [Wanted("x", binary=False)])


def test_compression_is_what_http_calls_it() -> None:
    body = b"tensor" * 1000
    assert gzip.decompress(compressed(body, "gzip")) == body
    assert zlib.decompress(compressed(body, "deflate")) == body
