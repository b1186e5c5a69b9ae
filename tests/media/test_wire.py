import socket

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


@pytest.mark.parametrize("piece", [1, 7, 64, 100_000])
def test_a_message_is_put_together_however_it_is_cut_and_the_next_one_is_left_alone(piece: int) -> None:
    frames = np.arange(3000, dtype=np.uint8)
    whole = b"".join(wire.pack(("value", frames, np.zeros(0))))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        incoming = wire.Incoming()
        assert not incoming.read(ours), "nothing has come"
        sent = whole + b"next"
        for start in range(0, len(sent), piece):
            theirs.sendall(sent[start : start + piece])
            complete = incoming.read(ours)
        assert complete
        kind, arrived, empty = wire.unpack(incoming.parts)
        assert (kind, empty.size) == ("value", 0)
        assert (arrived == frames).all()
        assert ours.recv(10) == b"next"


def test_the_end_of_the_stream_inside_a_message_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(b"".join(wire.pack("value"))[:-1])
        theirs.close()
        with pytest.raises(EOFError):
            wire.Incoming().read(ours)
