"""Whatever `/openapi.json` allows is answered as it says: schemathesis makes the requests, a real server answers them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.bundle.store import Bundle

# A deadline of 1 ms is allowed, and passes; what a client cannot do wrong is no error of the server either.
_CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]
"""


@pytest.mark.timeout(300)
def test_no_request_that_the_description_allows_is_answered_otherwise(
    serve, color_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "schemathesis.toml").write_text(_CONFIGURATION)
    with serve(str(color_bundle.path), MAREY_QUEUE_MS="600000", MAREY_LOG_LEVEL="warning") as running:
        command = [Path(sys.executable).with_name("st"), "run", f"{running.url}/openapi.json"]
        # Files and names that are made up are refused, which no description can tell from those that exist.
        options = ["--exclude-checks", "positive_data_acceptance", "--warnings", "off"]
        # Without its one model there would be nothing to ask.
        options += ["--exclude-path-regex", "unload", "--max-examples", "8", "--seed", "1", "--continue-on-failure"]
        result = subprocess.run(
            [*command, *options, "--no-color"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
        operations = len(running.client.get("/openapi.json").json()["paths"])
        assert operations > 20
        assert running.client.get("/health/ready").status_code == 200
