"""What the names of the protocol mean among the models that are served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.api.v2.network import Network, Part, split
from service.predictor import Predictor
from service.registry import Registry
from service.registry.model import Model


@asynccontextmanager
async def leased(
    registry: Registry, name: str, version: str | None, *, deadline: float
) -> AsyncIterator[tuple[Predictor, Network]]:
    """For the time of one request; `deadline` in monotonic seconds. Raises UnknownModel, NotReady or DeadlineExceeded."""
    own, part = _split(registry, name)
    async with registry.lease(own if version is None else f"{own}:{version}", deadline=deadline) as model:
        yield model, Network.of(model.manifest, part)


def looked_at(registry: Registry, name: str, version: str | None) -> tuple[Model, Network]:
    """To be described and not used: the version that most requests get, where none is named. Raises UnknownModel or NotReady."""
    own, part = _split(registry, name)
    known = registry.named(own if version is None else f"{own}:{version}")
    usual = None if version or ":" in own else registry.default(own)
    model = next((each for each in known if each.key[1] == usual), known[0])
    if not model.servable:
        raise model.refusal()
    return model, Network.of(model.manifest, part)


def _split(registry: Registry, name: str) -> tuple[str, Part | None]:
    return split(name, [model.key[0] for model in registry.known])
