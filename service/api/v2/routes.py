"""`/v2`: health, metadata, configuration and statistics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.state import StateOf
from service.api.v2 import infer, metadata
from service.api.v2.leased import leased
from service.api.v2.network import PARTS, Network
from service.api.v2.schemas import PROBLEMS, ModelSaid, Ready, Server
from service.predictor import Predictor

router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=PROBLEMS)


@router.get("")
async def server() -> Server:
    """Name, version, and what is known beyond the protocol itself."""
    return Server.model_validate(metadata.server())


@router.get("/health/live")
async def live(state: StateOf) -> dict[str, bool]:
    """As `/health/live`."""
    if state.phase == "ready":
        state.refuse_unless_ready()
    return {"live": True}


@router.get("/health/ready")
async def ready(state: StateOf) -> dict[str, bool]:
    """As `/health/ready`."""
    state.refuse_unless_ready()
    return {"ready": True}


@router.get("/models/stats")
async def every_statistics(request: Request, state: StateOf) -> dict[str, Any]:
    """What was asked over this protocol since the service started, of every network."""
    statistics = infer.statistics_of(request)
    return {
        "model_stats": [statistics.report(network) for model in state.registry.models for network in _networks(model)]
    }


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
async def model(name: str, state: StateOf, version: str | None = None) -> ModelSaid:
    """What goes into `NAME` (clips), `NAME.encoder` (frames) or `NAME.head` (features), and what comes out."""
    async with leased(state, name, version) as network:
        own = network.model.manifest.name
        versions = [each.manifest.version for each in state.registry.models if each.manifest.name == own]
        return ModelSaid.model_validate(metadata.model(network, versions))


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
async def model_ready(name: str, state: StateOf, version: str | None = None) -> Ready:
    """200 while requests for it are taken."""
    state.refuse_unless_ready()
    async with leased(state, name, version) as network:
        return Ready(name=network.name, ready=True)


@router.get("/models/{name}/config")
@router.get("/models/{name}/versions/{version}/config")
async def config(name: str, state: StateOf, version: str | None = None) -> dict[str, Any]:
    """As Triton's ModelConfig has it; `parameters` tell how frames are to be resized and sampled."""
    async with leased(state, name, version) as network:
        return metadata.configuration(network, max_rows=state.settings.max_queued_rows)


@router.get("/models/{name}/stats")
@router.get("/models/{name}/versions/{version}/stats")
async def statistics(name: str, request: Request, state: StateOf, version: str | None = None) -> dict[str, Any]:
    """What was asked over this protocol of one network, since the service started."""
    async with leased(state, name, version) as network:
        return {"model_stats": [infer.statistics_of(request).report(network)]}


def _networks(model: Predictor) -> list[Network]:
    parts = PARTS if model.manifest.network.kind == "encoder_head" else ()
    return [Network.of(model, part) for part in (None, *parts)]
