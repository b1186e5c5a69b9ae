"""A real Prometheus with this project's own configuration, whose discovery alone is another: it is told the addresses."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.monitoring.queries import MONITORING

PATIENCE_S = 30.0


def configured(folder: Path, *, targets: Sequence[str] = (), key: str = "") -> Path:
    """What lies under /etc/prometheus in the container, in `folder`; `targets`: host and port of each, in place of DNS."""
    shutil.copytree(MONITORING / "rules", folder / "rules")
    (folder / "marey.key").write_text(key)
    told = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    if targets:
        (job,) = told["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": list(targets)}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(told))
    return path


class Prometheus:
    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=20)

    def ask(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def series(self, query: str) -> list[tuple[dict[str, str], float]]:
        found = self.ask("query", query=query)
        assert found["resultType"] == "vector"
        return [(each["metric"], float(each["value"][1])) for each in found["result"]]

    def close(self) -> None:
        self._client.close()


@contextmanager
def watching(binary: str, folder: Path, *, targets: Sequence[str], key: str = "") -> Iterator[Prometheus]:
    """Prometheus on a free port, once it is ready."""
    command = [
        binary,
        f"--config.file={configured(folder, targets=targets, key=key)}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    log = folder / "log"
    with log.open("w") as file, subprocess.Popen(command, stderr=file, stdout=file) as process:
        try:
            address = until(
                lambda: re.search(r'msg="Listening on" (?:component=web )?address=(\S+)', log.read_text()), log
            )
            prometheus = Prometheus(f"http://{address[1]}")
            until(lambda: "Server is ready to receive web requests" in log.read_text(), log.read_text)
            yield prometheus
            prometheus.close()
        finally:
            process.terminate()


def until(found: Callable[[], Any], instead: Callable[[], Any]) -> Any:
    """What `found` gives, as soon as it gives something; where it does not, what there is `instead` is said."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := found()):
        assert time.monotonic() < deadline, instead()
        time.sleep(0.05)
    return result
