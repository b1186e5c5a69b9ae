"""`/v2`: health, metadata, configuration and statistics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.state import StateOf
from service.api.v2 import infer, metadata
from service.api.v2.named import looked_at
from service.api.v2.network import Network
from service.api.v2.schemas import PROBLEMS, ModelSaid, Ready, Server
from service.errors import NotReady

router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=PROBLEMS)


@router.get("")
async def server() -> Server:
    """Name, version, and what is known beyond the protocol itself."""
    return Server.model_validate(metadata.server())


@router.get("/health/live")
async def live(state: StateOf) -> dict[str, bool]:
    """As `/health/live`."""
    state.refuse_where_only_a_restart_helps()
    return {"live": True}


@router.get("/health/ready")
async def ready(state: StateOf) -> dict[str, bool]:
    """As `/health/ready`."""
    state.refuse_unless_ready()
    return {"ready": True}


@router.get("/models/stats")
async def every_statistics(request: Request, state: StateOf) -> dict[str, Any]:
    """What was asked over this protocol since the service started, of every network that is served."""
    statistics = infer.statistics_of(request)
    served = [model.manifest for model in state.registry.known if model.servable]
    return {"model_stats": [statistics.report(network) for each in served for network in Network.all_of(each)]}


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
async def model(name: str, state: StateOf, version: str | None = None) -> ModelSaid:
    """What goes into `NAME` (clips), `NAME.encoder` (frames) or `NAME.head` (features), and what comes out."""
    found, network = looked_at(state.registry, name, version)
    versions = [each.key[1] for each in state.registry.named(found.key[0]) if each.servable]
    engine = None if found.held is None else found.held.predictor.info.name
    return ModelSaid.model_validate(metadata.model(network, versions=versions, engine=engine))


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
async def model_ready(name: str, state: StateOf, version: str | None = None) -> Ready:
    """200 while requests for it are taken."""
    state.refuse_unless_ready()
    _, network = looked_at(state.registry, name, version)
    return Ready(name=network.name, ready=True)


@router.get("/models/{name}/config")
@router.get("/models/{name}/versions/{version}/config")
async def config(name: str, state: StateOf, version: str | None = None) -> dict[str, Any]:
    """As Triton's ModelConfig has it; `parameters` tell how frames are to be resized and sampled."""
    found, network = looked_at(state.registry, name, version)
    if found.held is None:
        raise NotReady(f"model {found.title} is not open: {found.reason}; send a request first", retry_after_s=1)
    infos = [replica.engine.info for replica in found.held.predictor.replicas]
    return metadata.configuration(network, infos=infos, max_rows=state.settings.max_queued_rows)


@router.get("/models/{name}/stats")
@router.get("/models/{name}/versions/{version}/stats")
async def statistics(name: str, request: Request, state: StateOf, version: str | None = None) -> dict[str, Any]:
    """What was asked over this protocol of one network, of all its versions where none is named."""
    found, network = looked_at(state.registry, name, version)
    versions = [found] if version else [each for each in state.registry.named(found.key[0]) if each.servable]
    networks = [Network.of(each.manifest, network.part) for each in versions]
    return {"model_stats": [infer.statistics_of(request).report(each) for each in networks]}
