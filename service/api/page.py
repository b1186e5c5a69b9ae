"""`/`: one page to try the service with. Its files lie in `static`, and name nothing outside the service."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

_KINDS: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Read once, with the program; what is not here is not served, whatever a path says.
_FILES: Final = {
    file.name: (file.read_bytes(), _KINDS[file.name.rpartition(".")[2]])
    for file in (files("service.api") / "static").iterdir()
    if file.name.rpartition(".")[2] in _KINDS
}


@router.get("/")
async def page() -> Response:
    return _file("index.html")


@router.get("/favicon.ico")
async def icon() -> Response:
    return _file("icon.svg")


@router.get("/static/{name}")
async def static(name: str) -> Response:
    return _file(name)


def _file(name: str) -> Response:
    if name not in _FILES:
        raise HTTPException(404, "there is no such file")
    content, kind = _FILES[name]
    return Response(content, media_type=kind)
