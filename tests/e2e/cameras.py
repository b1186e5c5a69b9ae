"""Cameras for tests: JPEG over HTTP as cheap ones send it, and RTSP with RTP in the same connection (RFC 2326, RFC 2435)."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

import cv2
import numpy as np

# What a camera shows at each of its pictures, and None where it breaks off.
Show = Callable[[int], tuple[int, int, int] | None]

PERIOD_S = 0.04


def jpeg(color: tuple[int, int, int]) -> bytes:
    """A picture `[48, 64]` of one colour, in RGB."""
    return cv2.imencode(".jpg", np.full((48, 64, 3), color[::-1], np.uint8))[1].tobytes()


@contextmanager
def mjpeg(show: Show) -> Iterator[str]:
    """The address of a camera that begins with picture 0 for each who asks."""

    def talk(handler: socketserver.StreamRequestHandler, pause: threading.Event) -> None:
        while handler.rfile.readline().strip():
            pass
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for number in count():
            color = show(number)
            if color is None or pause.wait(PERIOD_S):
                return
            data = jpeg(color)
            handler.wfile.write(
                b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(data), data)
            )

    with _serving(talk) as port:
        yield f"http://viewer:open%20sesame@127.0.0.1:{port}/video"


@contextmanager
def rtsp(show: Show) -> Iterator[str]:
    """The same by RTSP."""

    def talk(handler: socketserver.StreamRequestHandler, pause: threading.Event) -> None:
        while _answered(handler) != "PLAY":
            pass
        packet_number = count()
        for number in count():
            color = show(number)
            if color is None or pause.wait(PERIOD_S):
                return
            for payload, last in _payloads(jpeg(color)):
                stamp = round(number * PERIOD_S * 90_000)
                header = struct.pack("!BBHII", 0x80, 26 | (0x80 if last else 0), next(packet_number) & 0xFFFF, stamp, 1)
                packet = header + payload
                handler.wfile.write(struct.pack("!cBH", b"$", 0, len(packet)) + packet)

    with _serving(talk) as port:
        yield f"rtsp://viewer:open%20sesame@127.0.0.1:{port}/stream"


def _answered(handler: socketserver.StreamRequestHandler) -> str:
    """Answer the next request; its method."""
    method, headers = handler.rfile.readline().split()[0].decode(), {}
    while (header := handler.rfile.readline()).strip():
        name, _, value = header.decode().partition(":")
        headers[name.lower()] = value.strip()
    sdp = (
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\n"
        "c=IN IP4 0.0.0.0\r\na=control:track\r\n"
    )
    body, more = {
        "OPTIONS": ("", "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"),
        "DESCRIBE": (sdp, "Content-Type: application/sdp\r\n"),
        "SETUP": ("", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"),
    }.get(method, ("", ""))
    answer = f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}"
    handler.wfile.write(answer.encode())
    return method


def _payloads(data: bytes, most: int = 1200) -> Iterator[tuple[bytes, bool]]:
    """RFC 2435: the scan in pieces, with the quantization tables in the first; the other headers are understood."""
    at, tables, kind, height, width = 2, b"", 1, 0, 0
    while data[at + 1] != 0xDA:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : at + 2 + size]
        if data[at + 1] == 0xDB:
            tables += b"".join(segment[start + 1 : start + 65] for start in range(0, len(segment), 65))
        elif data[at + 1] == 0xC0:
            height, width = struct.unpack("!HH", segment[1:5])
            kind = {0x21: 0, 0x22: 1}[segment[7]]
        at += 2 + size
    scan = data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") : -2]
    for offset in range(0, len(scan), most):
        header = struct.pack("!II", offset, kind << 24 | 255 << 16 | (width // 8) << 8 | height // 8)
        if offset == 0:
            header += struct.pack("!BBH", 0, 0, len(tables)) + tables
        yield header + scan[offset : offset + most], offset + most >= len(scan)


@contextmanager
def _serving(talk: Callable[[socketserver.StreamRequestHandler, threading.Event], None]) -> Iterator[int]:
    pause = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):  # who watched has left
                talk(self, pause)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            pause.set()
            server.shutdown()
            thread.join()
