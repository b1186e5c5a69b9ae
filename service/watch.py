"""Ask a service what a camera shows, for as long as somebody wants to know: a client of `/classify/stream`.

# Note [What may break off]
The camera, and the service. Either ends the stream, and after a pause both are opened anew; the pause grows until there is an
answer again. What was wrong from the start is an error.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from service.api.app import create_app
from service.errors import MareyError
from service.live import Waiting
from service.media.address import STDIN, Shot, anonymous
from service.media.process import Gone, epitaph, spawn
from service.media.sniff import video_container
from service.media.worker import shots
from service.settings import Settings

Message = dict[str, Any]
Open = Callable[[Message], AbstractAsyncContextManager[ClientConnection]]

_PAUSES_S = (0.5, 1, 2, 4, 8, 15, 30)
_MEMORY_BYTES = 4 << 30
_CPU_S = 60.0
_PIECE = 2**16
_HEAD = 3 * 192
_FORMATS = {"Matroska/WebM": "webm", "MPEG-TS": "mpegts"}
# How a stream ends that may be opened anew: lost on the way, the service restarts, it has no room now.
_PASSING = (1001, 1006, 1012, 1013)


class Broken(Exception):
    """The stream has ended, and can be opened anew."""


class Unread(Exception):
    """Whoever read the answers has read enough, as `head` does. No OSError: those are the service's here."""


@asynccontextmanager
async def at(url: str, *, key: str | None) -> AsyncIterator[Open]:
    """Opens streams of the service at `url`."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    address = f"ws{url.removeprefix('http').rstrip('/')}/classify/stream"
    yield lambda query: connect(
        f"{address}?{urlencode(query)}", additional_headers=headers, max_size=None, compression=None
    )


@asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[Open]:
    """Opens streams of a service made in this process, which only this process can reach.

    Raises MareyError when no model can be served.
    """
    # As for files: the jobs in the user's folder are a service's to work on, and who may ask is settled.
    app = create_app(settings.model_copy(update={"max_jobs": 0, "keys": None, "rate_limit": None}))
    with tempfile.TemporaryDirectory(prefix="marey-watch-") as folder:
        path = str(Path(folder) / "service")
        config = uvicorn.Config(app, uds=path, ws="websockets-sansio", lifespan="on", log_config=None, access_log=False)
        server = _Aside(config)
        serving = asyncio.create_task(server.serve())
        try:
            await app.state.marey.loaded.wait()
            if app.state.marey.failure is not None:
                raise app.state.marey.failure
            yield lambda query: unix_connect(
                path, f"ws://marey/classify/stream?{urlencode(query)}", max_size=None, compression=None
            )
        finally:
            server.should_exit = True
            await serving


class _Aside(uvicorn.Server):
    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        """They are the command's."""
        return nullcontext()


async def watch(
    source: str,
    service: AbstractAsyncContextManager[Open],
    *,
    query: Message,
    say: Callable[[Message], None],
    note: Callable[[str], None],
) -> None:
    """Tell `say` each answer, and `note` what else is worth a sentence, until the source ends, or SIGINT or SIGTERM comes.

    Raises MareyError where it cannot begin, or cannot go on, and Unread where `say` meets a closed pipe.
    """
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    try:
        async with service as opening:
            watching = asyncio.create_task(_Watch(source, opening, query=query, say=say, note=note).run())
            await _first(watching, asyncio.create_task(told.wait()))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class _Watch:
    def __init__(
        self,
        source: str,
        opening: Open,
        *,
        query: Message,
        say: Callable[[Message], None],
        note: Callable[[str], None],
    ) -> None:
        self._source = source
        self._open = opening
        self._query = query
        self._say = say
        self._note = note
        self._pause = 0
        self._answered = False
        self._problem = ""

    async def run(self) -> None:
        """See Note [What may break off]."""
        while True:
            try:
                await self._stream()
            except Broken as broken:
                if not self._answered:
                    raise MareyError(str(broken)) from None
                pause = _PAUSES_S[min(self._pause, len(_PAUSES_S) - 1)]
                self._note(f"{broken}; again in {pause:g} s")
                self._pause += 1
                await asyncio.sleep(pause)
            else:
                return

    async def _stream(self) -> None:
        if self._source == STDIN:
            pieces = _pieces()
            first = await anext(pieces)
            form = _FORMATS.get(video_container(first))
            if form is None:
                raise MareyError(
                    "what comes in is neither WebM nor MPEG-TS; send it as ffmpeg -i INPUT -f mpegts - | marey classify -"
                )
            async with self._opened({"format": form, "drop": "false"}) as (stream, _):
                await _first(self._hear(stream), self._pass_on(stream, first, pieces))
            return
        async with self._opened({}) as (stream, ready):
            waiting: Waiting[Shot] = Waiting(1)
            shooting = self._shoot(waiting, spacing_s=ready["spacing_s"])
            await _first(self._hear(stream), shooting, self._send(stream, waiting))

    @asynccontextmanager
    async def _opened(self, more: Message) -> AsyncIterator[tuple[ClientConnection, Message]]:
        """A stream and its first message. Raises Broken, or MareyError where another try would be the same."""
        try:
            async with self._open({**self._query, **more}) as stream:
                ready = json.loads(await stream.recv())
                model = ready["model"]
                self._note(
                    f"{model['name']} on {model['engine']} {model['precision']} watches {anonymous(self._source)}: "
                    f"{ready['frames']} frames in {ready['window_s']:g} s"
                )
                yield stream, ready
        except InvalidStatus as refused:
            detail = _detail(refused.response.body)
            if refused.response.status_code in (429, 503):
                raise Broken(detail) from None
            raise MareyError(detail) from None
        except ConnectionClosed as closed:
            raise Broken(f"the service broke off ({closed})") from None
        except InvalidURI as error:
            raise MareyError(f"{error}; give --url as http://HOST:PORT") from None
        except (OSError, InvalidHandshake) as error:
            raise Broken(f"no service answers ({error}); start one with marey serve") from None

    async def _hear(self, stream: ClientConnection) -> None:
        """Until the service closes the stream: returns where all was sent. Raises Broken, Unread or MareyError."""
        try:
            while True:
                message = json.loads(await stream.recv())
                if message["type"] == "prediction":
                    self._answered, self._pause, self._problem = True, 0, ""
                    try:
                        self._say(message)
                    except BrokenPipeError:
                        raise Unread from None
                elif message["type"] == "problem" and message["problem"]["detail"] != self._problem:
                    self._problem = message["problem"]["detail"]
                    self._note(self._problem)
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            if code in _PASSING:
                raise Broken(f"the service ended the stream ({closed})") from None
            if code != 1000:
                raise MareyError(self._problem or f"the service ended the stream ({closed})") from None

    async def _shoot(self, waiting: Waiting[Shot], *, spacing_s: float) -> None:
        """Have a process of its own read the camera, which may hang or crash. Raises Broken where it ends, or MareyError."""
        camera = spawn(memory_bytes=_MEMORY_BYTES, cpu_s=_CPU_S)
        try:
            await camera.receive()
            await camera.send((shots, (self._source,), {"spacing_s": spacing_s}))
            while (answer := await camera.receive())[0] == "thing":
                waiting.put(answer[1])
        except Gone:
            raise Broken(f"{anonymous(self._source)} broke off ({await epitaph(camera.process)})") from None
        finally:
            camera.kill()
            await asyncio.shield(asyncio.to_thread(camera.process.wait))
        raise Broken(str(answer[1]) if answer[0] == "error" else f"{anonymous(self._source)} broke off")

    async def _send(self, stream: ClientConnection, waiting: Waiting[Shot]) -> None:
        """Until the stream is closed; whoever hears it knows why."""
        with suppress(ConnectionClosed):
            while (shot := await waiting.get()) is not None:
                await stream.send(json.dumps({"time_s": round(shot.time_s, 6), "duration_s": shot.duration_s}))
                await stream.send(shot.jpeg)
        await asyncio.Event().wait()

    async def _pass_on(self, stream: ClientConnection, first: bytes, pieces: AsyncIterator[bytes]) -> None:
        with suppress(ConnectionClosed):
            await stream.send(first)
            async for piece in pieces:
                await stream.send(piece)
            await stream.send('{"end": true}')
        await asyncio.Event().wait()  # until the service has answered all of it, and closes


async def _pieces() -> AsyncIterator[bytes]:
    """What comes in on stdin; the first piece is long enough to know what it is."""
    head = b""
    while len(head) < _HEAD and (more := await _read()):
        head += more
    yield head
    while piece := await _read():
        yield piece


async def _read() -> bytes:
    """One piece of stdin, empty at its end. Not in a thread: one that waits for a pipe could not be ended."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(0, readable.set)
    except PermissionError:  # a file always has something
        return os.read(0, _PIECE)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(0)
    return os.read(0, _PIECE)


async def _first(*works: Coroutine[Any, Any, Any] | asyncio.Task[Any]) -> None:
    """Run all until one ends, and cancel the others; raises what that one raised."""
    tasks = [each if isinstance(each, asyncio.Task) else asyncio.create_task(each) for each in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    # The service's word goes before that of whoever noticed that it had left.
    for task in tasks:
        if task in done:
            task.result()


def _detail(body: bytes | bytearray | memoryview | None) -> str:
    try:
        return str(json.loads(bytes(body or b""))["detail"])
    except (ValueError, KeyError, TypeError):
        return "what answers there is no Marey service, or one without streams; check --url"
