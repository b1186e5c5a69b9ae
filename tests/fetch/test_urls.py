"""URLs that lead to what is not public are refused, however they are written."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import UrlRefused
from service.fetch import Fetcher
from service.spool import Spool

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
