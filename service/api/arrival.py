"""The pieces of a body as they arrive, for as long as they arrive fast enough: who sends nothing holds a place that others need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.errors import ClientGone, TooSlow

# As Apache's mod_reqtimeout has it: slower than any network that people work over.
PATIENCE_S = 10.0
BYTES_PER_S = 1000


async def arriving(request: Request, *, patience_s: float = PATIENCE_S) -> AsyncIterator[bytes]:
    """The body, piece by piece. It may keep us waiting for `patience_s`, and a second more for each 1,000 bytes that came.

    What the caller does between the pieces costs the client no time. Raises TooSlow, or ClientGone where it hangs up.
    """
    stream = request.stream()
    received, waited_s = 0, 0.0
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience_s + received / BYTES_PER_S - waited_s):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise TooSlow(
                f"{received} bytes of the body came in {waited_s + time.monotonic() - began:.0f} s; {patience_s:g} s are allowed "
                f"and one more for each {BYTES_PER_S} bytes; send it over a faster connection"
            ) from None
        except ClientDisconnect:
            raise ClientGone("the client hung up before the body was complete") from None
        waited_s += time.monotonic() - began
        received += len(piece)
        yield piece
