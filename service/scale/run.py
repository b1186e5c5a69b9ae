"""`marey serve --ray`: engines, requests and jobs on Ray, until told to stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import FrameType

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions

from service.errors import EngineError
from service.keys import Keys
from service.logs import tell
from service.registry.catalogue import Found
from service.scale.application import engines, jobs, requests, whole
from service.scale.board import board
from service.scale.cluster import cluster, deployed, is_own, short
from service.scale.names import ENGINES, JOBS, REQUESTS, engine_title
from service.scale.spread import Spread, everywhere
from service.settings import Settings
from service.traces import Traces

logger = logging.getLogger(__name__)

_INTRODUCTION_S = 60.0
_LOOK_S = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Stop(BaseException):
    """What SIGTERM and SIGINT raise, wherever the main thread is: Ray waits for hours where it has no room for a replica.

    Within Ray's own code it may become another exception on its way; `told` says that it was it.
    """

    told = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.told = True
        for number in _SIGNALS:  # those that come while it stops
            signal.signal(number, signal.SIG_IGN)
        raise self

    def listen(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self)


def run(settings: Settings, spread: Spread) -> int:
    """Serve until told to stop; 0 after an orderly stop. A cluster that is not our own goes on, without what we have put there.

    Raises MareyError where a setting cannot be used or something does not come up.
    """
    settings = everywhere(settings, engines=spread.engines[0] if is_own() else 1)
    bundles = whole(settings)
    _refuse_what_no_replica_could_use(settings)
    port = _port(settings)
    cores = spread.cores(settings, bundles=len(bundles))
    if is_own() and (most := spread.ingress[1] + len(bundles) * spread.engines[1]) > 4 * (os.cpu_count() or 1):
        logger.warning("up to %d replicas will share the %d processors of this machine", most, os.cpu_count() or 1)
    stop = _Stop()
    stop.listen()
    try:
        with cluster(cores=cores, gpus=spread.engine_gpus, log_level=settings.log_level):
            stop.listen()  # Ray has put its own
            _serve(settings, spread, bundles, port)
    except BaseException:
        if not stop.told:
            raise
    return 0


def _serve(settings: Settings, spread: Spread, bundles: Sequence[Found], port: int) -> None:
    level, form = settings.log_level, settings.log_format
    with ExitStack() as stack:
        # They end in the opposite order: whoever has accepted a request still finds an engine, and tells what it counts.
        stack.callback(_end_board)
        application = engines(settings, spread, bundles)
        serve.start(proxy_location="EveryNode", http_options=HTTPOptions(host=settings.host, port=port))
        stack.enter_context(deployed(application, name=ENGINES, route=None, log_level=level))
        application = requests(settings, spread, bundles)
        stack.enter_context(deployed(application, name=REQUESTS, route="/", log_level=level))
        if settings.max_jobs:
            application = jobs(settings, spread, bundles)
            stack.enter_context(deployed(application, name=JOBS, route="/jobs", log_level=level))
        where = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{port}"
        tell(f"marey listens on {where} (try /docs)", form=form)
        tell(f"marey is ready: {_running(bundles)}", form=form)
        stack.callback(_drain, settings.drain_s)
        while REQUESTS in serve.status().applications:
            time.sleep(_LOOK_S)
    raise EngineError(f"somebody has removed the application {REQUESTS} from the cluster; start it again")


def _drain(seconds: float) -> None:
    """Let the replicas refuse what comes, and wait until they have answered what they took, or for `seconds`."""
    try:
        ray.get(board().drain.remote())
        until = time.monotonic() + seconds
        time.sleep(2 * _LOOK_S)  # by then they have heard of it, and said what they still do
        while time.monotonic() < until and ray.get(board().active.remote()):
            time.sleep(_LOOK_S / 4)
    except RayError as error:
        logger.warning("the replicas could not be told to take nothing more: %s", short(error))


def _end_board() -> None:
    with suppress(RayError, ValueError):  # it is gone with its machine
        ray.kill(board())


def _refuse_what_no_replica_could_use(settings: Settings) -> None:
    """A file of keys that cannot be read, traces without their package: better now than after Ray has started."""
    if settings.keys is not None:
        Keys(settings.keys)
    elif settings.host not in ("localhost", "127.0.0.1", "::1"):
        logger.warning("everybody who can reach %s may ask; set MAREY_KEYS to ask for API keys", settings.host)
    if settings.traces:
        Traces().close()


def _running(bundles: Sequence[Found]) -> str:
    told = []
    for found in bundles:
        handle = serve.get_deployment_handle(engine_title(found.key), ENGINES)
        try:
            info = handle.introduce.remote().result(timeout_s=_INTRODUCTION_S).info
        except (RayError, TimeoutError) as error:
            raise EngineError(f"the engines of {':'.join(found.key)} do not answer: {short(error)}") from error
        told.append(f"{' '.join(found.key)} on {info.name} {info.precision}")
    return ", ".join(told)


def _port(settings: Settings) -> int:
    """The one that is asked for, or one that nobody listens on. Raises EngineError where it is taken: Ray would say so in a minute."""
    host, port = settings.host, settings.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise EngineError(f"{host}:{port} cannot be listened on ({error.strerror}); name another --port") from error
        taken: int = listener.getsockname()[1]
    return taken
