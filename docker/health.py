#!/opt/marey/bin/python
"""HEALTHCHECK of the images that serve: exit code 0 where /health/ready answers 200, else 1, with the reason in a line.

    marey-health [--end-if-dead PID]

`--end-if-dead`: where /health/live says that only a restart helps, as after a lost GPU, ask process PID to stop, so that the
restart policy starts it anew; Docker itself leaves an unhealthy container running.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import sys
from http import HTTPStatus

# Less than the HEALTHCHECK's own timeout, after which the reason would be lost.
_TIMEOUT_S = 2.0
_EVERY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # what listens on every address


def _get(path: str) -> tuple[int, str]:
    """Status and reason; raises OSError or http.client.HTTPException where nothing answers."""
    host, port = os.environ.get("MAREY_HOST", "127.0.0.1"), int(os.environ.get("MAREY_PORT", "8000"))
    connection = http.client.HTTPConnection(_EVERY.get(host, host), port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    try:
        reason = str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        reason = answer.reason
    return answer.status, reason


def main(*, end_if_dead: int | None) -> int:
    try:
        status, reason = _get("/health/ready")
        if status == HTTPStatus.OK:
            return 0
        if end_if_dead is not None and _get("/health/live")[0] == HTTPStatus.SERVICE_UNAVAILABLE:
            os.kill(end_if_dead, signal.SIGTERM)
            reason += "; asked to stop, so that it is started anew"
    except (OSError, http.client.HTTPException) as error:
        status, reason = 0, f"the service does not answer ({error})"
    sys.stdout.write(f"{status or 'no answer'}: {reason}\n")
    return 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="marey-health")
    parser.add_argument("--end-if-dead", type=int, metavar="PID")
    sys.exit(main(end_if_dead=parser.parse_args().end_if_dead))
