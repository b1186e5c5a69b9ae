"""Bodies that are compressed: what is in them comes out, and what is made to take long is refused at once."""

from __future__ import annotations

import gzip
import os
import time
import zlib

import pytest
from fastapi import Request

from service.api.v2.body import read_body
from service.errors import Malformed

MIB = 2**20
pytestmark = pytest.mark.timeout(30)


async def read(body: bytes, *, coding: str = "gzip") -> bytes:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [(b"content-encoding", coding.encode())],
    }
    return bytes(await read_body(Request(scope, receive), max_bytes=64 * MIB, hold=lambda _size: None))


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
async def test_a_body_of_many_stretches_comes_out_whole(compress) -> None:
    for content in (os.urandom(5 * MIB + 7), bytes(9 * MIB), b""):
        assert await read(compress(content)) == content


async def test_members_one_behind_the_other_are_read_across_stretches() -> None:
    content = os.urandom(4 * MIB)
    parts = [content[at : at + MIB // 4] for at in range(0, len(content), MIB // 4)]
    assert len(parts) == 16
    assert await read(b"".join(gzip.compress(part) for part in parts)) == content


async def test_more_members_than_anybody_needs_are_refused_at_once() -> None:
    empty = gzip.compress(b"")
    body = empty * (3 * MIB // len(empty))
    began = time.monotonic()
    with pytest.raises(Malformed, match="more than the 16 members allowed; compress it as one"):
        await read(body)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("cut", [1, 9, MIB, 2 * MIB - 10])
async def test_what_breaks_off_anywhere_is_refused(cut: int) -> None:
    body = gzip.compress(os.urandom(2 * MIB))
    with pytest.raises(Malformed, match="ends in the middle"):
        await read(body[:-cut])
