"""Marey on Ray, with the extra `scale`: requests and decoding in some processes, networks in others, each scaled by its own queue.

    HTTP → Ray's proxy → Ingress (the application of `marey serve`, its decoders) → EngineHost (one bundle, one device)

What an ingress replica asks of a batcher goes to whichever engine replica has the least to do; see distant.py.
"""

from __future__ import annotations

import os

from service.errors import ServiceError

# Read by Ray when it is imported. Lines that repeat themselves are requests, here; colours belong to whoever looks.
_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}


def prepare(what: str) -> None:
    """Before Ray is imported; raises ServiceError where `what` was asked for and Ray is not installed."""
    for name, value in _RAY.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: F401, PLC0415
    except ModuleNotFoundError:
        raise ServiceError(f"{what} needs Ray, which is not installed: pip install 'marey[scale]'") from None
