"""Files by URL: real servers on this machine, which a test allows by an argument; nothing else of the fetcher is changed."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from service.errors import SpoolFull, TooLarge, UrlFailed, UrlRefused
from service.fetch import MAX_REDIRECTS, Address, Fetcher, is_public
from service.spool import Spool

FILE = bytes(range(256)) * 40


def loopback(address: Address) -> bool:
    return address.is_loopback


def to(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A resolver that gives one more of `addresses` each time it is asked, and the last one ever after."""
    left = list(addresses)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return [left.pop(0) if len(left) > 1 else left[0]]

    return resolve


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path, max_bytes=4 * 2**20)
    opened.open()
    yield opened
    opened.close()


class Web:
    """An HTTP server: `answers` by path, raw; what it was asked for is in `asked`."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]] = {}
        self.asked: list[str] = []
        self.port = 0

    def answer(self, path: str, body: bytes = b"", *, status: str = "200 OK", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.answers[path] = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def url(self, path: str, *, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(request)
            answer = self.answers[request.split()[1]]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the fetcher may hang up whenever it likes
        finally:
            writer.close()


@asynccontextmanager
async def serving(*, tls: ssl.SSLContext | None = None) -> AsyncIterator[Web]:
    web = Web()
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(30):
            yield web
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as running:
        yield running


@pytest.fixture
def near() -> Iterator[Fetcher]:
    """A fetcher that may ask this machine, and nothing else."""
    fetcher = Fetcher(allowed=loopback)
    yield fetcher
    fetcher.close()


async def test_a_file_is_fetched_as_it_is(web: Web, near: Fetcher, spool: Spool) -> None:
    web.answer("/a.jpg?x=1", FILE)
    with await near.fetch(web.url("/a.jpg?x=1"), spool=spool, max_bytes=2**20) as upload:
        assert (upload.source, upload.size) == (FILE, len(FILE))
    request = web.asked[0].lower()
    assert f"host: 127.0.0.1:{web.port}\r\n" in request
    assert "accept-encoding: identity\r\n" in request
    assert "cookie" not in request
    assert "authorization" not in request


async def test_a_large_file_goes_to_the_spool_and_leaves_it(web: Web, near: Fetcher, spool: Spool) -> None:
    web.answer("/a.mp4", FILE * 200)
    with await near.fetch(web.url("/a.mp4"), spool=spool, max_bytes=2**22) as upload:
        assert isinstance(upload.source, Path)
        assert upload.source.read_bytes() == FILE * 200
        assert spool.used_bytes == len(FILE) * 200


async def test_a_file_of_unstated_length_is_fetched_in_chunks(web: Web, near: Fetcher, spool: Spool) -> None:
    web.answers["/a"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert (await near.fetch(web.url("/a"), spool=spool, max_bytes=10)).source == b"abcde"
    web.answers["/b"] = b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
    assert (await near.fetch(web.url("/b"), spool=spool, max_bytes=100)).source == b"until the end"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirects_are_followed(web: Web, near: Fetcher, spool: Spool, status: str) -> None:
    web.answer("/a", status=status, Location="/deep/b")
    web.answer("/deep/b", status=status, Location="c?x=1")
    web.answer("/deep/c?x=1", FILE)
    assert (await near.fetch(web.url("/a"), spool=spool, max_bytes=2**20)).source == FILE


async def test_endless_redirects_are_not(web: Web, near: Fetcher, spool: Spool) -> None:
    web.answer("/a", status="302 Found", Location="/a")
    with pytest.raises(UrlFailed, match="more than 3 redirects"):
        await near.fetch(web.url("/a"), spool=spool, max_bytes=2**20)
    assert len(web.asked) == 1 + MAX_REDIRECTS


# Each is refused as it stands, or for the address that it leads to; none of them reaches a server.
REFUSED = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://0/",
    "http://0.0.0.0/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:7f00:1::1]/",
    "http://[2001:0:7f00:1::1]/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://ⓛocalhost/",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/",
    "http://172.31.255.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://127.0.0.1:65535/",
    "http://user@8.8.8.8/",
    "http://user:pass@8.8.8.8/",
    "http://8.8.8.8@127.0.0.1/",
    "http://@127.0.0.1/",
    "http://127.0.0.1#@8.8.8.8/",
    "http://127.0.0.1?@8.8.8.8/",
    "http://8.8.8.8\\@127.0.0.1/",
    "http://127.0.0.1\t/",
    "http://127.0.0.1\r\nX: y/",
    " http://127.0.0.1/",
    "http://8.8.8.8:22/",
    "http://8.8.8.8:25/",
    "http://8.8.8.8:0/",
    "http://8.8.8.8:99999/",
    "http:///etc/passwd",
    "http:/127.0.0.1/",
    "http:127.0.0.1",
    "//127.0.0.1/",
    "127.0.0.1",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "ftp://8.8.8.8/",
    "gopher://127.0.0.1:6379/_x",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "unix:///run/docker.sock",
    "http+unix://x/",
    "",
    "http://",
    "https://[::1",
    "http://[v1.x]/",
    "http://8.8.8.8/" + "a" * 2048,
]


@pytest.mark.parametrize("url", REFUSED)
async def test_what_is_not_public_is_refused_however_it_is_written(url: str, spool: Spool) -> None:
    fetcher = Fetcher()
    try:
        async with asyncio.timeout(10):
            with pytest.raises(UrlRefused) as caught:
                await fetcher.fetch(url, spool=spool, max_bytes=10)
    finally:
        fetcher.close()
    for secret in ("pass", "meta-data", "passwd", "AAAA"):
        assert secret not in str(caught.value).replace("a password", "")


@pytest.mark.parametrize("host", ["localhost.", "ip6-localhost", "a.localhost", "127.0.0.1.", "1.0.0.127.in-addr.arpa"])
async def test_names_that_may_lead_here_lead_nowhere(web: Web, spool: Spool, host: str) -> None:
    web.answer("/a", FILE)
    fetcher = Fetcher()
    with pytest.raises((UrlRefused, UrlFailed)):  # whether this machine knows the name or not
        await fetcher.fetch(web.url("/a", host=host), spool=spool, max_bytes=10)
    fetcher.close()
    assert web.asked == []


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "//127.0.0.1:{port}/secret",
        "http://2130706433:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/",
        "http://user:pass@public.example:{port}/secret",
        "http://10.0.0.1/",
    ],
)
async def test_a_redirect_is_checked_as_the_url_was(web: Web, spool: Spool, target: str) -> None:
    web.answer("/a", status="302 Found", Location=target.format(port=web.port))
    web.answer("/secret", b"secret")
    real = Fetcher()

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2"] if host == "public.example" else await real._addresses(host, port)

    # 127.0.0.2 stands for the internet: it leads to the same server, and 127.0.0.1 is forbidden.
    fetcher = Fetcher(allowed=lambda address: address == ip_address("127.0.0.2"), resolve=resolve)
    server = await asyncio.start_server(web.serve, "127.0.0.2", web.port)
    async with server:
        with pytest.raises(UrlRefused):
            await fetcher.fetch(web.url("/a", host="public.example"), spool=spool, max_bytes=2**20)
    assert [request.split()[1] for request in web.asked] == ["/a"]


async def test_a_name_that_changes_its_address_is_asked_for_once(web: Web, spool: Spool) -> None:
    web.answer("/a", FILE)
    rebinding = Fetcher(
        allowed=lambda address: address == ip_address("127.0.0.2"), resolve=to("127.0.0.2", "127.0.0.1")
    )
    with pytest.raises(UrlFailed):  # nobody listens at the address that was checked, and no other is tried
        await rebinding.fetch(web.url("/a", host="rebind.example"), spool=spool, max_bytes=2**20)
    with pytest.raises(UrlRefused, match="not at a public address"):
        await rebinding.fetch(web.url("/a", host="rebind.example"), spool=spool, max_bytes=2**20)
    assert web.asked == []


async def test_one_private_address_among_public_ones_is_enough_to_refuse(web: Web, spool: Spool) -> None:
    web.answer("/a", FILE)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1", "10.0.0.1"]

    with pytest.raises(UrlRefused):
        await Fetcher(allowed=loopback, resolve=resolve).fetch(
            web.url("/a", host="both.example"), spool=spool, max_bytes=2**20
        )
    assert web.asked == []


async def test_the_next_address_of_a_name_is_tried_where_one_does_not_answer(web: Web, spool: Spool) -> None:
    web.answer("/a", FILE)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.9", "127.0.0.1"]

    fetcher = Fetcher(allowed=loopback, resolve=resolve)
    assert (await fetcher.fetch(web.url("/a", host="two.example"), spool=spool, max_bytes=2**20)).source == FILE
    assert f"host: two.example:{web.port}\r\n" in web.asked[0].lower()


async def test_a_refusal_does_not_say_where_a_name_leads(spool: Spool) -> None:
    with pytest.raises(UrlRefused) as caught:
        await Fetcher(resolve=to("10.1.2.3")).fetch("http://intranet.example/s3cret?k=v", spool=spool, max_bytes=10)
    assert "10.1.2.3" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "saying"),
    [("404 Not Found", "answered 404"), ("206 Partial Content", "answered 206"), ("304 Not Modified", "answered 304")],
)
async def test_an_answer_that_is_no_file_is_told(
    web: Web, near: Fetcher, spool: Spool, status: str, saying: str
) -> None:
    web.answer("/a", b"x", status=status)
    with pytest.raises(UrlFailed, match=saying):
        await near.fetch(web.url("/a"), spool=spool, max_bytes=10)


async def test_an_empty_file_and_a_packed_one_are_refused(web: Web, near: Fetcher, spool: Spool) -> None:
    web.answer("/empty")
    with pytest.raises(UrlFailed, match="0 bytes"):
        await near.fetch(web.url("/empty"), spool=spool, max_bytes=10)
    web.answer("/packed", b"\x1f\x8b" + bytes(10), Content_Encoding="gzip")
    with pytest.raises(UrlFailed, match="packs the file as 'gzip'"):
        await near.fetch(web.url("/packed"), spool=spool, max_bytes=100)


async def emptied(spool: Spool) -> None:
    """Until nothing is left of what was given up."""
    while spool.used_bytes:
        await asyncio.to_thread(spool.submit(lambda: None).result)


async def test_a_file_larger_than_allowed_is_not_read_to_its_end(web: Web, near: Fetcher, spool: Spool) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(2**16))
            await writer.drain()
            sent += 2**16

    web.answers["/endless"] = endless
    web.answer("/stated", bytes(200))
    with pytest.raises(TooLarge, match="100 bytes allowed"):
        await near.fetch(web.url("/stated"), spool=spool, max_bytes=100)
    with pytest.raises(TooLarge, match="1000000 bytes allowed"):
        await near.fetch(web.url("/endless"), spool=spool, max_bytes=10**6)
    await emptied(spool)
    with pytest.raises(TooLarge, match="MAREY_MAX_SPOOL_BYTES"):  # more than the spool could hold of it alone
        await near.fetch(web.url("/endless"), spool=spool, max_bytes=10**9)
    await emptied(spool)  # files are removed in a thread
    with spool.draft(max_bytes=10**9) as other:
        await other.write(bytes(2 * 2**20))
        with pytest.raises(SpoolFull):
            await near.fetch(web.url("/endless"), spool=spool, max_bytes=10**9)
    assert sent < 30 * 2**20
    await emptied(spool)


async def test_a_server_that_says_nothing_or_nonsense_or_hangs_up_is_told(web: Web, spool: Spool) -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    fetcher = Fetcher(allowed=loopback, patience_s=0.2)
    web.answers.update({"/silent": silent, "/nonsense": b"SSH-2.0-OpenSSH\r\n\r\n", "/gone": b""})
    web.answers["/short"] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
    for path, saying in (
        ("/silent", "in time"),
        ("/nonsense", "cannot be"),
        ("/gone", "cannot be"),
        ("/short", "cannot be"),
    ):
        with pytest.raises(UrlFailed, match=saying):
            await fetcher.fetch(web.url(path), spool=spool, max_bytes=100)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(UrlFailed, match="cannot be"):
            await fetcher.fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/", spool=spool, max_bytes=100)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def test_a_name_that_nobody_knows_is_told(spool: Spool) -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def slow(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(UrlFailed, match=r"'nobody\.invalid' is not known"):
        await Fetcher(resolve=unknown).fetch("http://nobody.invalid/", spool=spool, max_bytes=10)
    with pytest.raises(UrlFailed, match="in time"):
        await Fetcher(resolve=slow, patience_s=0.1).fetch("http://nobody.invalid/", spool=spool, max_bytes=10)


async def test_no_proxy_of_the_environment_is_asked(
    web: Web, near: Fetcher, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    web.answer("/a", FILE)
    assert (await near.fetch(web.url("/a"), spool=spool, max_bytes=2**20)).source == FILE


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the name files.example alone; key and certificate in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=files.example "
        f"-addext subjectAltName=DNS:files.example -keyout {path} -out {path}.crt"
    )
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


async def test_tls_asks_for_the_name_and_not_for_the_address(certificate: Path, spool: Spool) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=f"{certificate}.crt")
    async with serving(tls=server) as web:
        web.answer("/a", FILE)
        fetcher = Fetcher(allowed=loopback, resolve=to("127.0.0.1"), tls=trusting)
        url = web.url("/a", host="files.example", scheme="https")
        assert (await fetcher.fetch(url, spool=spool, max_bytes=2**20)).source == FILE
        with pytest.raises(UrlFailed, match="certificate"):
            await fetcher.fetch(web.url("/a", host="other.example", scheme="https"), spool=spool, max_bytes=2**20)
        with pytest.raises(UrlFailed, match="certificate"):
            await Fetcher(allowed=loopback, resolve=to("127.0.0.1")).fetch(url, spool=spool, max_bytes=2**20)
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "192.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.88.99.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fd00::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2002:a00:1::",
        "2001:0:7f00:1::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "2001:db8::1",
        "3fff::1",
        "100::1",
        "2001:4860::5efe:127.0.0.1",
        "2001:4860::200:5efe:7f00:1",
    ],
)
def test_addresses_that_not_everybody_can_reach(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1", "::ffff:8.8.8.8"]
)
def test_addresses_that_everybody_can_reach(address: str) -> None:
    assert is_public(ip_address(address))
