"""Ray's cluster: the one that RAY_ADDRESS names, or one that this machine alone is, for as long as the command runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from service.errors import EngineError


def is_own() -> bool:
    """Whether the cluster will be this machine alone."""
    return "RAY_ADDRESS" not in os.environ


@contextmanager
def cluster(*, cores: float, log_level: str) -> Iterator[None]:
    """Join it, and leave it; one of our own ends then, with all that runs on it. What Ray raises inside is an EngineError.

    `cores`: what the replicas will ask for, on a machine of our own. There they are what Ray counts by and not what it hands out:
    replicas share the processors as processes do.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    level = logging.getLevelName(log_level.upper())
    try:
        if is_own():
            ray.init(address="local", num_cpus=round(cores + 1), include_dashboard=False, logging_level=level)
        else:
            ray.init(logging_level=level)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise EngineError(f"Ray does not start, or is not at RAY_ADDRESS: {short(error)}") from error
    try:
        yield
    except (RayError, RayServeException, RuntimeError) as error:
        raise EngineError(f"Ray does not run it: {short(error)}") from error
    finally:
        ray.shutdown()


@contextmanager
def deployed(application: serve.Application, *, name: str, route: str | None, log_level: str) -> Iterator[None]:
    """Run `application`, all of whose replicas are healthy then; removed in the end, once its last request was answered."""
    # Our log says more of each request, and Ray's would say it a second time.
    logs = LoggingConfig(enable_access_log=False, log_level="DEBUG" if log_level == "debug" else "WARNING")
    try:
        serve.run(application, name=name, route_prefix=route, logging_config=logs)
        yield
    finally:
        serve.delete(name)


def short(error: Exception) -> str:
    """Ray's messages are pages long."""
    return " ".join(str(error).split())[:1000]
