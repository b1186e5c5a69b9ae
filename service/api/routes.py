"""Health and metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response

from service.api.limits import Limits, limits_of
from service.api.models import broken, listed
from service.api.state import StateOf
from service.telemetry import CONTENT_TYPE

router = APIRouter()


@router.get("/health/live", tags=["health"])
async def live(state: StateOf) -> dict[str, str]:
    """200 while the process answers; 503 where only a restart helps: a device has failed, or its thread has ended."""
    state.refuse_where_only_a_restart_helps()
    return {"status": "live"}


@router.get("/health/ready", tags=["health"])
async def ready(state: StateOf) -> dict[str, Any]:
    """200 once every model is loaded, proved on its golden clips and warm; else 503 with the reason.

    A model that is loaded later, or cannot be, leaves the service ready: `models` and `broken` tell.
    """
    state.refuse_unless_ready()
    return {
        "status": "ready",
        "models": [listed(state, model) for model in state.registry.known if model.servable],
        "broken": broken(state.registry.broken),
        "jobs": {"taken": state.desk.reason is None, "reason": state.desk.reason},
    }


@router.get("/limits", tags=["models"])
async def limits(state: StateOf) -> Limits:
    """Every limit on what may be sent: its value, the setting that sets it, and how a refusal reads."""
    return limits_of(state)


@router.get("/metrics", tags=["health"], response_class=Response)
async def metrics(state: StateOf) -> Response:
    """Prometheus text format."""
    # In a thread: GPUs are read at each scrape, which takes milliseconds, and seconds at the first where no process keeps them awake.
    text = await asyncio.to_thread(state.metrics)
    return Response(text, media_type=CONTENT_TYPE)
