"""The form of an upload as it comes in, piece by piece, at the seam where the web server hands it over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Request

from service.api.uploads import read_file
from service.errors import ClientGone, EmptyFile, Malformed, MissingFile, RequestError, SpoolFull, TooLarge
from service.spool import Spool, Upload

MIB = 2**20
HEAD = b'--B\r\nContent-Disposition: form-data; name="%s"; filename="../../etc/passwd"\r\n\r\n'
FORM, END = HEAD % b"file", b"\r\n--B--\r\n"
KIND = "multipart/form-data; boundary=B"
pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path, max_bytes=6 * MIB)
    spool.open()
    yield spool
    spool.close()
    assert list(tmp_path.iterdir()) == []


async def read(spool: Spool, *pieces: bytes, ended: bool = True, max_bytes: int = 4 * MIB, **headers: str) -> Upload:
    """`read_file` of a request whose body comes in `pieces`; not `ended`: the client hangs up behind them."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b""} if ended else {"type": "http.disconnect"})
    incoming = iter(messages)

    async def receive() -> dict[str, object]:
        return next(incoming)

    given = {"content-type": KIND} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
    }
    return await read_file(Request(scope, receive), spool=spool, max_bytes=max_bytes)


@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_however_the_body_is_cut_the_file_is_the_same(step: int, spool: Spool) -> None:
    content = bytes(range(256)) * 4 + b"\r\n--"
    body = HEAD % b"other" + b"x\r\n" + FORM + content + END
    with await read(spool, *(body[at : at + step] for at in range(0, len(body), step))) as upload:
        assert (upload.source, upload.size) == (content, len(content))


async def test_a_large_file_is_spooled_and_its_name_is_nobodys_business(spool: Spool, tmp_path: Path) -> None:
    pieces = [bytes([number]) * 65_536 for number in range(50)]
    with await read(spool, FORM, *pieces, END) as upload:
        assert isinstance(upload.source, Path)
        assert upload.source.read_bytes() == b"".join(pieces)
        assert tmp_path in upload.source.parents
        assert upload.source.name.isdigit()


@pytest.mark.parametrize(
    ("error", "pieces", "headers"),
    [
        (TooLarge, [FORM, *[bytes(65_536)] * 65, END], {}),
        (TooLarge, [], {"content_length": str(5 * MIB)}),
        (Malformed, [b"\xff"], {"content_length": "\u00b2"}),
        (TooLarge, [HEAD % b"other", *[bytes(65_536)] * 3], {}),
        (Malformed, [FORM, *[bytes(65_536)] * 40], {}),
        (Malformed, [FORM, *[bytes(65_536)] * 40, b"\r\n--B-"], {}),
        (Malformed, [FORM, bytes(10), b"\r\n", FORM, bytes(10), END], {}),
        (Malformed, [FORM, bytes(10), END], {"content_type": "multipart/form-data"}),
        (Malformed, [b"\xff" * 100], {}),
        (MissingFile, [HEAD % b"image", bytes(10), END], {}),
        (EmptyFile, [FORM, END], {}),
    ],
)
async def test_what_cannot_be_taken_is_refused_and_leaves_nothing(
    error: type[RequestError], pieces: list[bytes], headers: dict[str, str], spool: Spool, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        await read(spool, *pieces, **headers)
    assert type(caught.value) is error
    await emptied(spool, tmp_path)


async def test_too_much_beside_the_file_is_refused_by_its_own_limit(spool: Spool, tmp_path: Path) -> None:
    for pieces in (
        [HEAD % b"other", *[bytes(65_536)] * 2, b"\r\n", FORM, bytes(10), END],
        [FORM, bytes(10), END, *[bytes(65_536)] * 2],
    ):
        with pytest.raises(TooLarge, match="more than 65536 bytes beside the field 'file'; send the file alone"):
            await read(spool, *pieces)
    await emptied(spool, tmp_path)


async def test_a_client_that_hangs_up_is_gone_and_so_is_its_file(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(ClientGone):
        await read(spool, FORM, *[bytes(65_536)] * 40, ended=False)
    await emptied(spool, tmp_path)


async def test_what_cannot_fit_is_refused_before_it_is_read(spool: Spool) -> None:
    with await read(spool, FORM, *[bytes(65_536)] * 48, END):
        with pytest.raises(SpoolFull) as caught:
            await read(spool, content_length=str(3 * MIB + 2**17))
        assert caught.value.retry_after_s
        with await read(spool, FORM, bytes(1000), END) as small:
            assert small.size == 1000


async def test_what_can_never_fit_the_spool_is_not_told_to_come_back(spool: Spool) -> None:
    with pytest.raises(TooLarge, match="6291457 bytes or more, and the disk may hold 6291456 of") as caught:
        await read(spool, content_length=str(6 * MIB + 1 + 2**16), max_bytes=64 * MIB)
    assert caught.value.retry_after_s is None


async def test_a_clients_faults_do_not_fill_the_log(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(Malformed):
        await read(spool, b"--C\r\n\r\n")
    assert caplog.text == ""


async def emptied(spool: Spool, folder: Path) -> None:
    """Files are removed in a thread of the spool."""
    for _ in range(5000):
        if not spool.used_bytes and not files(folder):
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"{spool.used_bytes} bytes are left")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
