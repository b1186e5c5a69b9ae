"""Health, models and metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response

from service.api.schemas import used
from service.api.state import StateOf
from service.predictor import Predictor
from service.telemetry import CONTENT_TYPE

router = APIRouter()


@router.get("/health/live", tags=["health"])
async def live(state: StateOf) -> dict[str, str]:
    """200 while the process answers; 503 where only a restart helps: the device thread or the decoders have ended."""
    if state.phase == "ready":
        state.refuse_unless_ready()
    return {"status": "live"}


@router.get("/health/ready", tags=["health"])
async def ready(state: StateOf) -> dict[str, Any]:
    """200 once every model is loaded, proved on its golden clips and warm; else 503 with the reason."""
    state.refuse_unless_ready()
    return {"status": "ready", "models": [_summary(model) for model in state.registry.models], "broken": _broken(state)}


@router.get("/models", tags=["models"])
async def models(state: StateOf) -> dict[str, Any]:
    """Every model served, the ones that could not be, and the limits on what may be sent."""
    settings = state.settings
    limits = settings.model_dump(
        include={"max_upload_bytes", "max_pixels", "max_duration_s", "max_requests", "max_queued_rows", "timeout_ms"}
    )
    return {"models": [_summary(model) for model in state.registry.models], "broken": _broken(state), "limits": limits}


@router.get("/models/{name}", tags=["models"])
async def model(name: str, state: StateOf) -> dict[str, Any]:
    """One model's whole manifest, and what it runs on."""
    found = state.registry.get(name)
    return {
        **_summary(found),
        "golden_difference": found.golden_difference,
        "manifest": found.manifest.model_dump(mode="json", exclude_none=True),
    }


@router.get("/metrics", tags=["health"], response_class=Response)
async def metrics(state: StateOf) -> Response:
    """Prometheus text format."""
    # In a thread: GPUs are read at each scrape, which takes milliseconds, and seconds at the first where no process keeps them awake.
    text = await asyncio.to_thread(state.telemetry.render)
    return Response(text, media_type=CONTENT_TYPE)


def _summary(model: Predictor) -> dict[str, Any]:
    manifest = model.manifest
    return {
        **used(model, model.info).model_dump(),
        "devices": [replica.engine.info.device for replica in model.replicas],
        "tasks": list(manifest.tasks),
        "classes": len(manifest.labels),
        "description": manifest.description,
    }


def _broken(state: StateOf) -> list[dict[str, str]]:
    return [{"bundle": broken.path.name, "error": str(broken.error)} for broken in state.registry.broken]
