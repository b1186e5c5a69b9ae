"""TLS: the certificate must be of the name in the URL."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from service.errors import UrlFailed
from service.fetch import Fetcher
from service.spool import Spool
from tests.fetch.conftest import loopback, to
from tests.fetch.web import FILE, serving


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
