"""The Ray applications: engines, requests that ask them, and the jobs of /jobs, which one replica alone keeps.

`marey serve --ray` runs all three; in a RayService they are `service.scale.application:build_engines`, `…:build` and
`…:build_jobs`. The engines are an application of their own because Ray ends all replicas of one at once: requests that were
accepted must still find theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle

from service.bundle.store import open_bundle
from service.errors import EngineError, MareyError
from service.registry.catalogue import Catalogue, Found
from service.scale.engine_host import EngineHost
from service.scale.ingress import Ingress
from service.scale.names import engine_title
from service.scale.spread import Replicas, Spread, refuse_unless_shared
from service.settings import Settings

logger = logging.getLogger(__name__)

_JOBS_ELSEWHERE = "jobs are kept by one replica of their own, to which /jobs leads"
# Clips, or parts of them, under way in one engine replica: beyond that they wait with whoever sends them. Its own limit on waiting
# comes long before, so this one is for what a refusal costs.
_MOST_IN_ENGINE = 512
_HEALTH_S = 2.0


class Hosts:
    """The deployment at the head of the engines' application, over those that run the networks."""

    def __init__(self, *hosts: DeploymentHandle[Any]) -> None:
        self.hosts = hosts


def build_engines(arguments: dict[str, Any]) -> Application:
    """The engines of every bundle: settings from MAREY_… variables, `arguments` are fields of `Spread`, laid over MAREY_RAY_….

    Raises InvalidParameter, EngineError or pydantic's ValidationError, as the others.
    """
    return engines(settings := Settings(), Spread(**arguments), whole(settings))


def build(arguments: dict[str, Any]) -> Application:
    """What takes requests, and decodes; `arguments` as for `build_engines`."""
    return requests(settings := Settings(), Spread(**arguments), whole(settings))


def build_jobs(arguments: dict[str, Any]) -> Application:
    """What keeps jobs, and works on them; `arguments` as for `build_engines`."""
    return jobs(settings := Settings(), Spread(**arguments), whole(settings))


def engines(settings: Settings, spread: Spread, bundles: Sequence[Found]) -> Application:
    hosts = [_host(found, settings, spread) for found in bundles]
    return serve.deployment(Hosts).options(name="engines", ray_actor_options={"num_cpus": 0}).bind(*hosts)


def requests(settings: Settings, spread: Spread, bundles: Sequence[Found]) -> Application:
    told = _JOBS_ELSEWHERE if settings.max_jobs else None
    return _ingress("requests", settings, spread, bundles, spread.ingress, jobs=told)


def jobs(settings: Settings, spread: Spread, bundles: Sequence[Found]) -> Application:
    return _ingress("jobs", settings, spread, bundles, (1, 1), jobs=None)


def whole(settings: Settings) -> list[Found]:
    """The bundles that can be served; those that are not what their manifests say are left out, as without Ray.

    Raises EngineError where there are none, with the reasons, or InvalidParameter where a setting means one process.
    """
    refuse_unless_shared(settings)
    look = Catalogue(settings.bundles).look(served={})
    found, reasons = [], [str(broken.error) for broken in look.broken]
    for each in look.found:
        try:
            open_bundle(each.path)
        except MareyError as error:
            logger.error("bundle %s is not served: %s", each.path, error)  # noqa: TRY400  # a sentence of ours says it all
            reasons.append(str(error))
        else:
            found.append(each)
    if not found:
        raise EngineError("no bundle can be served: " + "; ".join(reasons))
    return found


def _host(found: Found, settings: Settings, spread: Spread) -> Application:
    # A GPU that Ray gives to a replica is the only one that it sees.
    settings = settings.model_copy(update={"devices": (0,) if spread.engine_gpus else ()})
    options = {"num_cpus": spread.of_engine(settings), "num_gpus": spread.engine_gpus}
    host = serve.deployment(EngineHost).options(
        name=engine_title(found.key),
        ray_actor_options=options,
        max_ongoing_requests=_MOST_IN_ENGINE,
        graceful_shutdown_timeout_s=settings.drain_s,
        health_check_period_s=_HEALTH_S,
        **_replicas(spread.engines, spread.engine_target),
    )
    return host.bind(str(found.path), found.key, settings)


def _ingress(
    name: str, settings: Settings, spread: Spread, bundles: Sequence[Found], replicas: Replicas, *, jobs: str | None
) -> Application:
    # Whatever is too much is refused by us, with a problem and Retry-After, and so must come through to us.
    most = 4 * settings.max_requests + settings.max_streams + 64
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name=name,
        ray_actor_options={"num_cpus": spread.of_ingress(settings)},
        max_ongoing_requests=most,
        graceful_shutdown_timeout_s=settings.drain_s,
        health_check_period_s=_HEALTH_S,
        **_replicas(replicas, spread.ingress_target),
    )
    return ingress.bind(settings, [found.key for found in bundles], jobs=jobs)


def _replicas(range_: Replicas, target: float) -> dict[str, Any]:
    fewest, most = range_
    if fewest == most:
        return {"num_replicas": most}
    scaling = AutoscalingConfig(min_replicas=fewest, max_replicas=most, target_ongoing_requests=target)
    return {"autoscaling_config": scaling}
