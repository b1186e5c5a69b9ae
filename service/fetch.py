"""Files by URL: fetched for a client, and only from where that client could have fetched them itself.

# Note [Where a name leads]
Whoever controls a name controls where it leads, and may change that between a check and the connection. So a name is resolved
once, all of its addresses are checked, and the connection goes to one of these and not to the name; TLS still asks for the
name. What the URL looks like decides nothing: every way to write an address ends as one, and that is checked. Each redirect
begins anew. No variable of the environment is asked for a proxy, and nothing of the client's request goes with ours.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address

import httpcore
import httpx

from service import __version__
from service.errors import UrlFailed, UrlRefused
from service.spool import Draft, Spool, Upload, too_large

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_REDIRECTS = 3
_LONGEST_URL = 2048
# To connect, and between two pieces of an answer; the whole is bound by the request's own deadline.
_PATIENCE_S = 10.0
_TOTAL_S = 600.0
_TRIED = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SCHEMES = {"http": 80, "https": 443}
# Below stand services that were never meant to be spoken to in HTTP, such as mail.
_LOWEST_OTHER_PORT = 1024
_ODD = re.compile(r"[\x00-\x20\x7f\\]")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Which of these `ipaddress` takes for global depends on the version of Python: addresses compatible with IPv4, NAT64 of one
# network, what stands in documents, and relays of 6to4.
_NEVER = [ipaddress.ip_network(each) for each in ("::/96", "64:ff9b:1::/48", "3fff::/20", "192.88.99.0/24")]
_HEADERS = [
    (b"User-Agent", f"marey/{__version__}".encode()),
    (b"Accept", b"image/*, video/*, */*;q=0.1"),
    (b"Accept-Encoding", b"identity"),  # what unpacks itself would arrive larger than it is counted
]


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could reach it; forms of IPv6 that carry an IPv4 address are as public as that."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.sixtofour is not None:
            return is_public(address.sixtofour)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        isatap = (int(address) >> 32) & 0xFDFFFFFF == 0x5EFE
        if address.teredo or isatap or address.is_site_local:
            return False
    if any(address in network for network in _NEVER):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class Fetcher:
    """`await fetch(url)`. `allowed` says which addresses may be asked, `resolve` gives those of a name."""

    def __init__(
        self,
        *,
        allowed: Callable[[Address], bool] = is_public,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        # Threads of its own: names that do not resolve must not hold up whatever else waits for one.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="resolver")
        self._network = _Network(allowed, resolve or self._addresses)
        self._tls = tls or httpx.create_ssl_context()
        self._timeout = {"connect": patience_s, "read": patience_s, "write": patience_s, "pool": patience_s}

    async def fetch(self, url: str, *, spool: Spool, max_bytes: int) -> Upload:
        """The file at `url`. Raises UrlRefused, UrlFailed, TooLarge or SpoolFull; none of them repeats more than the host."""
        target = _parsed(url)
        try:
            async with asyncio.timeout(_TOTAL_S):
                for _ in range(1 + MAX_REDIRECTS):
                    found = await self._ask(target, spool=spool, max_bytes=max_bytes)
                    if isinstance(found, Upload):
                        return found
                    target = found
        except TimeoutError:
            raise UrlFailed(
                f"{_shown(target)} gave no whole file within {_TOTAL_S:g} s; send the file itself"
            ) from None
        raise UrlFailed(f"the URL leads through more than {MAX_REDIRECTS} redirects; name the file itself")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, url: httpx.URL, *, spool: Spool, max_bytes: int) -> Upload | httpx.URL:
        """The file, or where else it is said to be."""
        where = _shown(url)
        port = url.port or _SCHEMES[url.scheme]
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=port, target=url.raw_path)
        try:
            async with (
                httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=self._network) as pool,
                pool.stream("GET", target, headers=_HEADERS, extensions={"timeout": self._timeout}) as response,
            ):
                headers = {name.lower(): value for name, value in response.headers}
                if response.status in _REDIRECTS and b"location" in headers:
                    return _parsed(headers[b"location"].decode("latin-1"), base=url)
                if response.status != 200:
                    raise UrlFailed(
                        f"{where} answered {response.status}, not 200; check that anybody may read the file"
                    )
                coding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
                if coding not in ("", "identity"):
                    raise UrlFailed(f"{where} packs the file as {coding[:20]!r}, unasked; send the file itself")
                length = headers.get(b"content-length", b"")
                if length.isdigit() and int(length) > max_bytes:
                    raise too_large(max_bytes)
                with spool.draft(max_bytes=max_bytes) as draft:
                    await _copy(response, draft)
                    if draft.size == 0:
                        raise UrlFailed(f"{where} gave a file of 0 bytes; name an image or a video")
                    return await draft.finish()
        except httpcore.TimeoutException:
            raise UrlFailed(f"{where} did not answer in time; try again, or send the file itself") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, ssl.SSLError) as error:
            what = " ".join(str(error).split())[:200] or type(error).__name__
            raise UrlFailed(f"{where} cannot be fetched ({what}); check the URL, or send the file itself") from None

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(each[4][0]) for each in found]


class _Network(httpcore.AsyncNetworkBackend):
    """See Note [Where a name leads]."""

    def __init__(self, allowed: Callable[[Address], bool], resolve: Resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # as httpcore calls it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._checked(host, port, patience_s=timeout)
        for address in addresses[:-1]:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._backend.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def _checked(self, host: str, port: int, *, patience_s: float | None) -> list[str]:
        try:
            async with asyncio.timeout(patience_s):
                found = await self._resolve(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout("the name was not resolved in time") from None
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise UrlFailed(f"the name {host[:100]!r} is not known; check the URL")
        if not all(self._allowed(ipaddress.ip_address(address)) for address in found):
            # Not which: names inside a network are not to be looked up from outside.
            raise UrlRefused(f"the host {host[:100]!r} is not at a public address; send the file itself")
        return list(dict.fromkeys(found))[:_TRIED]


async def _copy(response: httpcore.Response, draft: Draft) -> None:
    async for piece in response.aiter_stream():
        await draft.write(piece)


def _parsed(text: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """Raises UrlRefused for what is not to be asked whatever it leads to."""
    if len(text) > _LONGEST_URL or _ODD.search(text):
        raise UrlRefused(
            f"the URL is longer than {_LONGEST_URL} characters, or has spaces, backslashes or control characters in it; "
            "percent-encode it"
        )
    try:
        url = httpx.URL(text) if base is None else base.join(text)
        host, port, user = url.host, url.port, url.userinfo
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise UrlRefused("the URL is not a valid one; send one of the form https://HOST/PATH") from None
    if url.scheme not in _SCHEMES or not host:
        raise UrlRefused(f"the URL is of the scheme {url.scheme[:20]!r}, not http or https; send the file itself")
    if user:
        raise UrlRefused("the URL has a user name or a password in it; send one without, or the file itself")
    if port is not None and port not in _SCHEMES.values() and not _LOWEST_OTHER_PORT <= port <= 65_535:
        raise UrlRefused(f"the URL's port {port} is none for files: 80, 443 and those above 1023 are asked")
    return url


def _shown(url: httpx.URL) -> str:
    """Without the path and the query: they may be somebody's secret."""
    return f"{url.scheme}://{url.host[:100]}"
