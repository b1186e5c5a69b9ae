"""`/models`: what is served, in which versions, at which shares, and on what it runs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from pydantic import BaseModel, Field

from service.api.guard import require_admin
from service.api.limits import limits_of
from service.api.schemas import refusals
from service.api.state import State, StateOf
from service.bundle.manifest import Task
from service.registry import Broken, Model

router = APIRouter(prefix="/models", tags=["models"])


class ModelListed(BaseModel):
    """One version of a name. Where it is not open, what it runs on is told as it was when it was; null where it never was."""

    name: str
    version: str
    state: str = Field(description="READY, UNAVAILABLE, LOADING or UNLOADING, as Triton has it.")
    reason: str = Field(description="Why it is in that state; empty where there is nothing to say.")
    default: bool = Field(description="The version with the largest share of the requests that name none.")
    share: float = Field(description="Of the requests that name the model and no version.")
    in_memory: bool = Field(description="false while it is READY: it gave way to others, and is loaded when asked for.")
    memory_bytes: int | None = Field(description="What it costs, as measured when it was opened.")
    requests: int = Field(description="Since the service started.")
    last_used: datetime | None
    engine: str | None
    precision: str | None
    float_precision: str | None
    head_engine: str | None = Field(description="What runs the head, where that is another than engine.")
    device: str | None
    devices: list[str]
    tasks: list[Task]
    classes: int
    description: str


class ModelTold(ModelListed):
    """One version, and all that its manifest says."""

    versions: list[ModelListed] = Field(description="All of that name, newest first.")
    golden_difference: float | None = Field(description="Largest |Δp| on the golden clips; null where it is not open.")
    manifest: dict[str, Any]


class BundleBroken(BaseModel):
    """What is not served as it lies on disk."""

    bundle: str
    error: str


class Models(BaseModel):
    """All versions, in the order of the folders."""

    models: list[ModelListed]
    broken: list[BundleBroken]
    limits: dict[str, int | float | None] = Field(description="In short; GET /limits tells the rest of them.")


class Shared(BaseModel):
    """How requests are shared out from now on."""

    shares: dict[str, float] = Field(description="By version; in all 1.")


@router.get("")
async def models(state: StateOf) -> Models:
    """Every version that is known, the bundles that are not served and why, and the limits on what may be sent."""
    limits = {limit.name: limit.value for limit in limits_of(state).limits}
    known = [listed(state, model) for model in state.registry.known if model.error is None or model.held is not None]
    return Models(models=known, broken=broken(state.registry.broken), limits=limits)


@router.get("/{name}", responses=refusals(404))
async def model(name: str, state: StateOf) -> ModelTold:
    """One model's whole manifest, and what it runs on: of `NAME:VERSION`, or of `NAME` its default version."""
    versions = state.registry.named(name)
    default = state.registry.default(versions[0].key[0])
    found = next((each for each in versions if each.key[1] == default), versions[0])
    return ModelTold(
        **listed(state, found).model_dump(),
        versions=[listed(state, each) for each in state.registry.named(found.key[0])],
        golden_difference=found.held.predictor.golden_difference if found.held is not None else None,
        manifest=found.manifest.model_dump(mode="json", exclude_none=True),
    )


@router.put("/{name}/weights", dependencies=[Depends(require_admin)], responses=refusals(400, 401, 403, 404, 422, 429))
async def weigh(
    name: str,
    weights: Annotated[dict[str, float], Body(examples=[{"1": 9, "2": 1}], description="Share of each version.")],
    state: StateOf,
) -> Shared:
    """Share out the requests that name no version, until the service ends: `{"1": 9, "2": 1}` gives version 2 a tenth.

    Shares need not add up to anything. Versions that are not named get none; `{}` gives all to the newest again. What a version
    that is not served would have had falls to the others.
    """
    state.registry.weigh(name, weights)
    return Shared(shares=state.registry.shares(name))


def listed(state: State, model: Model) -> ModelListed:
    name, version = model.key
    info = model.info
    shares = state.registry.shares(name)
    return ModelListed(
        name=name,
        version=version,
        state=model.state,
        reason=model.reason,
        default=version == state.registry.default(name),
        share=round(shares.get(version, 0.0), 6),
        in_memory=model.held is not None,
        memory_bytes=model.nbytes,
        requests=model.requests,
        last_used=datetime.fromtimestamp(model.used_at, UTC) if model.used_at is not None else None,
        engine=info and info.name,
        precision=info and info.precision,
        float_precision=info and info.float_precision,
        head_engine=info and info.head_engine,
        device=info and info.device,
        devices=list(model.devices),
        tasks=list(model.manifest.tasks),
        classes=len(model.manifest.labels),
        description=model.manifest.description,
    )


def broken(found: Iterable[Broken]) -> list[BundleBroken]:
    return [BundleBroken(bundle=each.path.name, error=str(each.error)) for each in found]
