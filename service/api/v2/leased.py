"""A network by its name, for the time of one request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.api.state import State
from service.api.v2.network import Network, split


@asynccontextmanager
async def leased(state: State, name: str, version: str | None) -> AsyncIterator[Network]:
    """What `name` means here, of `version` where one is given; it stays open meanwhile. Raises UnknownModel."""
    served = [model.manifest.name for model in state.registry.models]
    own, part = split(name, served)
    async with state.registry.lease(own if version is None else f"{own}:{version}") as model:
        yield Network.of(model, part)
