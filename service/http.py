"""HTTP/1.1 as uvicorn speaks it, with limits on the head of a request: uvicorn takes one of any length, before any key is asked for."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import HeadersTooLarge

MAX_HEAD_BYTES = 64 * 2**10
MAX_HEADERS = 100
HEAD_S = 10.0


class Http(HttpToolsProtocol):
    """A larger head, or trailer, ends the connection with 431; one that takes longer than HEAD_S ends it without a word.

    A connection that was kept alive and is idle ends as it does without us, by uvicorn's own timeout.
    """

    _timer: asyncio.TimerHandle | None = None
    _head_open = False  # a head has begun and is not complete
    _moved = False  # the bytes of this moment brought a body on, or ended a head or a message
    _unmoved_bytes = 0  # that came since anything moved: the parser keeps them
    _refused: HeadersTooLarge | None = None
    _handed_over = False  # to the WebSocket

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._moved = False
        super().data_received(data)
        if self._handed_over or self.transport.is_closing():
            self._stop_timer()
            return
        if self._moved:
            self._stop_timer()
            self._unmoved_bytes = 0
        else:
            self._unmoved_bytes += len(data)
            if self._unmoved_bytes > MAX_HEAD_BYTES:
                self._refused = _too_many_bytes()
                self.send_400_response("")
                return
        # A body has a clock of its own, where it is read. What follows an answer has none there: neither the rest of a body
        # that nobody wants, nor the empty lines that may stand before a request.
        answered = self.cycle is None or self.cycle.response_complete
        if self._timer is None and (self._head_open or answered):
            self._start_timer()

    def on_message_begin(self) -> None:
        self._head_open = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of trailers, too."""
        if len(self.headers) == MAX_HEADERS:
            self._refuse(HeadersTooLarge(f"the request has more than the {MAX_HEADERS} headers allowed; send fewer"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_open, self._moved = False, True
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse(_too_many_bytes())
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._moved = True
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._handed_over = True
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Also called for what was raised while parsing."""
        if self._refused is None:
            super().send_400_response(msg)
            return
        cycle = self.cycle
        # Amid, or instead of, the answer to an earlier request it would be misread.
        if cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started):
            self.transport.write(_answer(self._refused))
        self.transport.close()

    def _refuse(self, error: HeadersTooLarge) -> None:
        """Stop the parser, which calls us from within."""
        self._refused = error
        raise error

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        self.shutdown()  # the answer to an earlier request is still given


def _too_many_bytes() -> HeadersTooLarge:
    return HeadersTooLarge(
        f"the request's target and headers have more than the {MAX_HEAD_BYTES} bytes allowed; send less"
    )


def _answer(error: HeadersTooLarge) -> bytes:
    problem = {
        "type": f"urn:marey:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    body = json.dumps(problem).encode()
    head = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return STATUS_LINE[error.status] + head + body
