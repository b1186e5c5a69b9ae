"""`marey serve --ray`: engines, requests and jobs on Ray, until told to stop."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import ExitStack

from ray import serve
from ray.serve.config import HTTPOptions

from service.logs import tell
from service.scale.application import engines, jobs, requests, whole
from service.scale.cluster import cluster, deployed, is_own
from service.scale.names import ENGINES, JOBS, REQUESTS, engine_title
from service.scale.spread import Spread, everywhere
from service.settings import Settings

_INTRODUCTION_S = 60.0


def run(settings: Settings, spread: Spread) -> int:
    """Serve until told to stop; 0 after an orderly stop. A cluster that is not our own goes on, without what we have put there.

    Raises InvalidParameter, or EngineError where something does not come up.
    """
    settings = everywhere(settings, engines=spread.engines[1] if is_own() else 1)
    level, form = settings.log_level, settings.log_format
    application = engines(settings, spread)  # what is wrong with the bundles is told before Ray starts
    port = settings.port or _free_port(settings.host)
    stopping = threading.Event()
    with cluster(cores=spread.cores(settings, bundles=len(whole(settings))), log_level=level), ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):  # Ray has put its own
            signal.signal(number, lambda _number, _frame: stopping.set())
        serve.start(proxy_location="EveryNode", http_options=HTTPOptions(host=settings.host, port=port))
        tell(f"marey listens on {_url(settings.host, port)} (try /docs)", form=form)
        # They end in the opposite order: whoever has accepted a request still finds an engine.
        stack.enter_context(deployed(application, name=ENGINES, route=None, log_level=level))
        stack.enter_context(deployed(requests(settings, spread), name=REQUESTS, route="/", log_level=level))
        if settings.max_jobs:
            stack.enter_context(deployed(jobs(settings, spread), name=JOBS, route="/jobs", log_level=level))
        tell(f"marey is ready: {_running(settings)}", form=form)
        stopping.wait()
    return 0


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
