"""`marey serve --ray`: both applications, on the cluster that RAY_ADDRESS names, or on one that this machine alone is."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from service.errors import EngineError
from service.logs import tell
from service.scale.application import engines, jobs, requests, whole
from service.scale.names import ENGINES, JOBS, REQUESTS, engine_title
from service.scale.spread import Spread
from service.settings import Settings

logger = logging.getLogger(__name__)

_INTRODUCTION_S = 60.0


def run(settings: Settings, spread: Spread) -> int:
    """Serve until told to stop; 0 after an orderly stop, on a cluster of others as well, which goes on without us.

    Raises InvalidParameter, or EngineError where the applications do not come up.
    """
    here = "RAY_ADDRESS" not in os.environ
    settings = _everywhere(settings, spread, here=here)
    application = engines(settings, spread)  # whatever is wrong with the bundles is told before Ray starts
    port = settings.port or _free_port(settings.host)
    stopping = threading.Event()
    _connect(settings, spread, here=here)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):  # Ray has put its own
            signal.signal(number, lambda _number, _frame: stopping.set())
        serve.start(proxy_location="EveryNode", http_options=HTTPOptions(host=settings.host, port=port))
        tell(f"marey listens on {_url(settings.host, port)} (try /docs)", form=settings.log_format)
        try:
            _deploy(application, ENGINES, None, settings)
            _deploy(requests(settings, spread), REQUESTS, "/", settings)
            if settings.max_jobs:
                _deploy(jobs(settings, spread), JOBS, "/jobs", settings)
            tell(f"marey is ready: {_running(settings)}", form=settings.log_format)
            stopping.wait()
        finally:
            for name in (REQUESTS, JOBS, ENGINES):
                serve.delete(name)  # returns once its last request was answered
    except (RayError, RayServeException, RuntimeError) as error:
        raise EngineError(f"Ray does not serve it: {_short(error)}") from error
    finally:
        if here:
            serve.shutdown()
        ray.shutdown()
    return 0


def _everywhere(settings: Settings, spread: Spread, *, here: bool) -> Settings:
    """The settings as they mean the same in every replica: other working directories, several engines on one machine."""
    given: dict[str, Any] = {name: getattr(settings, name) for name in type(settings).model_fields}
    changed: dict[str, Any] = {
        name: value.expanduser().absolute() for name, value in given.items() if isinstance(value, Path)
    }
    changed["bundles"] = tuple(path.absolute() for path in settings.bundles)
    if here and "threads" not in settings.model_fields_set:
        changed["threads"] = max(1, settings.threads // spread.engines[1])
    return settings.model_copy(update=changed)


def _connect(settings: Settings, spread: Spread, *, here: bool) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    level = logging.getLevelName(settings.log_level.upper())
    try:
        if not here:
            ray.init(logging_level=level)
            return
        # Cores are what Ray counts by, not what it hands out: on one machine replicas share them, as processes do.
        cores = max(spread.cores(settings, bundles=len(whole(settings))), settings.threads)
        ray.init(
            address="local",
            num_cpus=round(cores + 1),
            include_dashboard=False,
            logging_level=level,
        )
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise EngineError(f"Ray does not start, or is not at RAY_ADDRESS: {_short(error)}") from error


def _deploy(application: serve.Application, name: str, route: str | None, settings: Settings) -> None:
    """Return once its replicas are healthy."""
    # Ours says more, and Ray's would say it a second time.
    logs = LoggingConfig(enable_access_log=False, log_level="WARNING" if settings.log_level != "debug" else "DEBUG")
    serve.run(application, name=name, route_prefix=route, logging_config=logs)


def _running(settings: Settings) -> str:
    told = []
    for found in whole(settings):
        handle = serve.get_deployment_handle(engine_title(found.key), ENGINES)
        info = handle.introduce.remote().result(timeout_s=_INTRODUCTION_S).info
        told.append(f"{' '.join(found.key)} on {info.name} {info.precision}")
    return ", ".join(told)


def _free_port(host: str) -> int:
    """One that nobody listens on: Ray's proxy cannot say which it took."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        port: int = listener.getsockname()[1]
    return port


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:1000]
