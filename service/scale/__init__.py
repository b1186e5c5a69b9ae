"""Marey on Ray, with the extra `scale`: requests and decoding in some processes, networks in others, each scaled by its own queue.

    HTTP → Ray's proxy → Ingress (the application of `marey serve`, its decoders) → EngineHost (one bundle, one device)

What an ingress replica asks of a batcher goes to whichever engine replica has the least to do; see distant.py.
"""

from __future__ import annotations

from importlib.util import find_spec

from service.errors import ServiceError


def refuse_without_ray(what: str) -> None:
    """Raise ServiceError where `what` was asked for and Ray is not installed."""
    if find_spec("ray") is None:
        raise ServiceError(f"{what} needs Ray, which is not installed: pip install 'marey[scale]'")
