"""`/v2/repository`: models come and go, as Triton's clients ask for it. For admins only."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from service.api.guard import require_admin
from service.api.schemas import refusals
from service.api.small_json import read_object
from service.api.state import StateOf
from service.errors import InvalidParameter

_MAX_BODY_BYTES = 2**20

router = APIRouter(
    prefix="/v2/repository",
    tags=["model repository"],
    dependencies=[Depends(require_admin)],
    responses=refusals(400, 401, 403, 404, 408, 413, 422, 429, 500, 503),
)


class Indexed(BaseModel):
    """One version, or one bundle that cannot be read: it has the name of its folder, and no version."""

    name: str
    version: str
    state: str
    reason: str


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}


@router.post("/index", openapi_extra=_body({"ready": {"type": "boolean", "description": "true: only those that are"}}))
async def index(request: Request, state: StateOf) -> list[Indexed]:
    """All that lies in the folders now and all that is served, with its state and, where there is one, the reason."""
    only_ready = (await _fields(request, known=("ready",))).get("ready", False)
    if not isinstance(only_ready, bool):
        raise InvalidParameter(f"ready = {only_ready!r} is neither true nor false")
    return [
        Indexed(name=each.name, version=each.version, state=each.state, reason=each.reason)
        for each in await state.registry.index()
        if each.state == "READY" or not only_ready
    ]


@router.post(
    "/models/{name}/load",
    openapi_extra=_body({"parameters": {"type": "object", "additionalProperties": False}}),
    response_class=Response,
)
async def load(name: str, request: Request, state: StateOf) -> Response:
    """Load every version of `NAME`, or `NAME:VERSION`, from its folder, and answer once it is warm.

    One that is served is replaced without a gap; where the new one fails, the old one still is served, and the answer says why.
    """
    parameters = await _parameters(request)
    if parameters:
        raise InvalidParameter(
            f"a model is loaded from its folder as it is, without {', '.join(map(repr, parameters))[:200]}; put the bundle there"
        )
    state.refuse_unless_ready()
    await state.registry.load(name)
    return Response()


@router.post(
    "/models/{name}/unload",
    openapi_extra=_body(
        {"parameters": {"type": "object", "properties": {"unload_dependents": {"type": "boolean"}}}},
    ),
    response_class=Response,
)
async def unload(name: str, request: Request, state: StateOf) -> Response:
    """From now on no request gets `NAME`, or `NAME:VERSION`; those under way are answered. It stays so until it is loaded again."""
    unknown = set(await _parameters(request)) - {"unload_dependents"}  # nothing depends on a model here
    if unknown:
        raise InvalidParameter(f"there is no parameter {min(unknown)[:60]!r}; there is unload_dependents")
    state.refuse_unless_ready()
    await state.registry.unload(name)
    return Response()


async def _parameters(request: Request) -> dict[str, Any]:
    found = (await _fields(request, known=("parameters",))).get("parameters", {})
    if not isinstance(found, dict):
        raise InvalidParameter("parameters must be a JSON object")
    return found


async def _fields(request: Request, *, known: tuple[str, ...]) -> dict[str, Any]:
    """The body as a JSON object; an empty one is none. Its content type is not asked for: Triton's client sends none."""
    found = await read_object(request, max_bytes=_MAX_BODY_BYTES, remedy="send an object, or nothing")
    if unknown := sorted(set(found) - set(known)):
        raise InvalidParameter(f"there is no field {unknown[0][:60]!r} here; there is {', '.join(known)}")
    return found
