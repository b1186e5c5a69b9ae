"""Tensors by the protocol's names, in its bytes."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.utils as triton

from service.api.v2.tensors import Spec, classified, packed, to_bytes
from service.bundle.manifest import Tensor
from service.errors import InvalidParameter

FRAMES = Spec("frames", "UINT8", (-1, 16, 24, 3))


def test_axes_of_any_length_are_minus_one() -> None:
    assert Spec.of(Tensor(name="frames", dtype="uint8", shape=("N", 16, 24, 3))) == FRAMES
    assert Spec.of(Tensor(name="attention", dtype="float32", shape=("B", "T"))).shape == (-1, -1)


@pytest.mark.parametrize("shape", [[1, 16, 24, 3], [1000, 16, 24, 3]])
def test_shapes_that_fit_are_taken(shape: list[int]) -> None:
    assert FRAMES.refuse_unless_fits("UINT8", shape) == tuple(shape)


@pytest.mark.parametrize(
    "shape",
    [[16, 24, 3], [1, 16, 24], [1, 1, 16, 24, 3], [0, 16, 24, 3], [-1, 16, 24, 3], [1, 24, 16, 3], [1, 16, 24, 1], [], [True, 16, 24, 3],
     [1.0, 16, 24, 3], "1,16,24,3", None, {"N": 1}, [[1], 16, 24, 3]],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(shape: object) -> None:
    with pytest.raises(InvalidParameter, match="shape"):
        FRAMES.refuse_unless_fits("UINT8", shape)


@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "uint8", "STRING", None, 5, ["UINT8"]])
def test_other_datatypes_are_refused_by_name(datatype: object) -> None:
    with pytest.raises(InvalidParameter, match="send UINT8") as caught:
        FRAMES.refuse_unless_fits(datatype, [1, 16, 24, 3])
    assert str(datatype)[:10] in str(caught.value)
    assert ("none of the protocol's" in str(caught.value)) == (datatype not in ("FP32", "BYTES"))


def test_bytes_become_the_array_without_a_copy_where_they_are_aligned() -> None:
    data = bytearray(range(16)) + bytearray(1)
    pixels = Spec("x", "UINT8", (-1, 2)).from_bytes(memoryview(data)[1:], (8, 2))
    assert pixels.base is not None
    assert pixels[0].tolist() == [1, 2]
    values = np.arange(3, dtype="<f4")
    shifted = memoryview(b"x" + values.tobytes())[1:]
    found = Spec("x", "FP32", (-1,)).from_bytes(shifted, (3,))
    assert found.tolist() == [0, 1, 2]
    assert found.flags.aligned


def test_bytes_are_those_that_nvidias_client_reads() -> None:
    array = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(np.frombuffer(to_bytes(array.T), np.float32).reshape(4, 3), array.T)
    items = [b"0.5:0:a", b"", "0.25:1:ü".encode()]
    assert triton.deserialize_bytes_tensor(packed(items)).tolist() == items


def test_classes_come_best_first_and_of_equal_ones_the_first() -> None:
    rows = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]], np.float32)
    shape, found = classified(rows, 2, ("a", "b", "c"))
    assert shape == (2, 2)
    assert found == [b"0.500000:1:b", b"0.300000:2:c", b"0.400000:0:a", b"0.400000:2:c"]
    assert classified(rows, 9, ())[1][:3] == [b"0.500000:1", b"0.300000:2", b"0.200000:0"]
