import numpy as np
import pytest

from service.media import wire


def test_arrays_travel_beside_the_pickle_and_arrive_writable() -> None:
    frames = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    head, array = wire.pack(("value", frames))
    assert array.nbytes == frames.nbytes
    header, body = head[: wire.HEADER_BYTES], head[wire.HEADER_BYTES :]
    assert wire.lengths(bytes(header)) == (body.nbytes, frames.nbytes)
    kind, arrived = wire.unpack([bytearray(body), bytearray(array)])
    assert kind == "value"
    assert (arrived == frames).all()
    arrived[0] = 0


def test_more_arrays_than_the_header_holds_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match="8 parts, at most 7"):
        wire.pack([np.zeros(1) for _ in range(7)])


@pytest.mark.parametrize("count", [0, 8, 2**63])
def test_a_header_that_is_none_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 7"):
        wire.lengths(count.to_bytes(8, "little") + bytes(wire.HEADER_BYTES - 8))
