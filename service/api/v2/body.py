"""The body of a request, read up to a limit and inflated up to the same."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

from fastapi import Request

from service.api.arrival import arriving
from service.errors import Malformed, TooLarge, UnsupportedMedia

# Of gzip and of zlib, which HTTP calls deflate: told apart by their first bytes.
_EITHER = 32 + zlib.MAX_WBITS
_STRETCH = 2**20
# Each costs a thread its turn, however little is in it. A body that was compressed in parts has a few.
_MAX_MEMBERS = 16


async def read_body(request: Request, *, max_bytes: int, hold: Callable[[int], None]) -> bytearray:
    """The body as it was before it was compressed; `hold` is told of memory before it is taken.

    Raises TooLarge, UnsupportedMedia, Malformed, TooSlow, ClientGone, or what `hold` raises.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise UnsupportedMedia(f"the body is encoded as {coding[:40]!r}; send it as it is, or with gzip or deflate")
    length = request.headers.get("content-length", "")
    if length.isdigit():
        _refuse_if_larger(int(length), max_bytes)
    body = bytearray()
    async for chunk in arriving(request):
        hold(len(chunk))
        body += chunk
        _refuse_if_larger(len(body), max_bytes)
    return body if coding == "identity" else await _inflated(body, max_bytes=max_bytes, hold=hold)


async def _inflated(body: bytearray, *, max_bytes: int, hold: Callable[[int], None]) -> bytearray:
    """A stretch at a time, each in a thread: a few bytes may stand for gigabytes."""
    # A view, cut into stretches: zlib copies whatever it was given and did not use.
    found, view, at = bytearray(), memoryview(body), 0
    members = 0
    while at < len(view):  # gzip files may stand one after the other
        members += 1
        if members > _MAX_MEMBERS:
            raise Malformed(
                f"the compressed body has more than the {_MAX_MEMBERS} members allowed; compress it as one, at once"
            )
        inflater = zlib.decompressobj(_EITHER)
        while not inflater.eof:
            given = view[at : at + _STRETCH]
            try:
                piece = await asyncio.to_thread(inflater.decompress, given, _STRETCH)
            except zlib.error as error:
                raise Malformed(
                    f"the body is not what Content-Encoding says ({error}); send gzip, or zlib for deflate"
                ) from None
            at += len(given) - len(inflater.unused_data if inflater.eof else inflater.unconsumed_tail)
            if not (piece or len(given) or inflater.eof):
                raise Malformed("the compressed body ends in the middle; send all of it")
            hold(len(piece))
            found += piece
            _refuse_if_larger(len(found), max_bytes)
    return found


def _refuse_if_larger(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(
            f"the body has more than the {limit} bytes allowed; send fewer frames a request, or raise MAREY_MAX_UPLOAD_BYTES"
        )
