"""Ray's cluster: the one that RAY_ADDRESS names, or one that this machine alone is, for as long as the command runs."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from service.errors import EngineError

_ADDRESS = re.compile(r"(?:ray://)?(.+):(\d+)")
_REACH_S = 5.0


def is_own() -> bool:
    """Whether the cluster will be this machine alone."""
    return not os.environ.get("RAY_ADDRESS")


@contextmanager
def cluster(*, cores: float, gpus: float, log_level: str) -> Iterator[None]:
    """Join it, and leave it; one of our own ends then, with all that runs on it. Raises EngineError where that is not possible.

    `cores`: what the replicas will ask for, on a machine of our own. There they are what Ray counts by and not what it hands out:
    replicas share the processors as processes do. `gpus`: what one of them asks for.
    """
    level = logging.getLevelName("WARNING" if log_level == "info" else log_level.upper())
    try:
        if is_own():
            ray.init(address="local", num_cpus=round(cores + 1), include_dashboard=False, logging_level=level)
        else:
            _reach(os.environ["RAY_ADDRESS"])
            ray.init(logging_level=level)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        hint = "" if is_own() else "; RAY_AUTH_TOKEN has to be the cluster's, where that asks for one"
        raise EngineError(f"Ray does not start, or is not at RAY_ADDRESS: {short(error)}{hint}") from error
    try:
        if gpus and is_own() and not ray.cluster_resources().get("GPU"):
            raise EngineError(
                f"{gpus:g} of a GPU is asked for each engine, and Ray finds none here; leave MAREY_RAY_ENGINE_GPUS out"
            )
        yield
    finally:
        ray.shutdown()


@contextmanager
def deployed(application: serve.Application, *, name: str, route: str | None, log_level: str) -> Iterator[None]:
    """Run `application`, all of whose replicas are healthy then; removed in the end, once its last request was answered.

    Raises EngineError where there is one of that name, which is another's, or where it does not come up.
    """
    if name in serve.status().applications:
        raise EngineError(f"this cluster has an application {name} already; stop the Marey that serves there")
    # Our log says more of each request, and Ray's would say it a second time.
    logs = LoggingConfig(enable_access_log=False, log_level="DEBUG" if log_level == "debug" else "WARNING")
    try:
        try:
            serve.run(application, name=name, route_prefix=route, logging_config=logs)
        except (RayError, RayServeException, RuntimeError) as error:
            raise EngineError(f"{name} does not come up on Ray: {short(error)}") from error
        yield
    finally:
        serve.delete(name)


def short(error: Exception) -> str:
    """Ray's messages are pages long: how they begin, and the last line, which has the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return " … ".join(dict.fromkeys((lines[0][:300], lines[-1][:300])))


def _reach(address: str) -> None:
    """Ray itself would try for minutes. Raises ConnectionError where nobody listens."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return
    try:
        socket.create_connection((match[1], int(match[2])), timeout=_REACH_S).close()
    except OSError as error:
        raise ConnectionError(f"nobody listens at {address} ({error})") from error
