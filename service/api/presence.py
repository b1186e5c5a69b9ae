"""Whether the client is still there while it waits for its answer."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

from service.errors import ClientGone


class Presence:
    """`async with Presence(receive):` ends the block with ClientGone when the client hangs up. The body must have been read.

    What the block awaits is cancelled then, and so gives back its place with the decoders and on the device.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._block, self._cancelled_before = task, task.cancelling()
        self._watch = asyncio.create_task(self._await_end())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._gone:
            self._watch.cancel()
            await asyncio.wait((self._watch,))
            return
        if self._block.uncancel() <= self._cancelled_before and kind is asyncio.CancelledError:
            raise ClientGone("the client hung up before it had its answer") from None

    async def _await_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass  # what else comes was not asked for
        self._gone = True
        self._block.cancel()
