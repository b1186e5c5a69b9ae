"""What Ray knows the applications by, and the deployments that one asks of another."""

from __future__ import annotations

from service.registry.catalogue import Key

ENGINES = "marey-engines"
REQUESTS = "marey"
JOBS = "marey-jobs"


def engine_title(key: Key) -> str:
    """The deployment that runs the networks of one bundle."""
    return "-".join(key)
