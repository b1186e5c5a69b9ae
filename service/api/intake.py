"""What a request brings: a file in a form, or the URL of one."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from service.api.presence import Presence
from service.api.small_json import read_object
from service.api.state import State
from service.api.uploads import read_file
from service.errors import Malformed, UrlRefused
from service.spool import Upload

_MAX_JSON = 16 * 2**10
_REMEDY = 'send {"url": "https://…"} and nothing else'

# For OpenAPI: FastAPI does not read these bodies, so it cannot describe them.
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["url"],
                    "properties": {"url": {"type": "string", "format": "uri", "maxLength": 2048}},
                    "additionalProperties": False,
                }
            },
        },
    }
}


async def read_upload(request: Request, state: State, *, max_bytes: int) -> Upload:
    """The file, which is the caller's to close. Raises as `read_file` and `Fetcher.fetch`."""
    if not is_url(request):
        return await read_file(request, spool=state.spool, max_bytes=max_bytes)
    if state.fetcher is None:
        raise UrlRefused(
            "this service fetches no URLs unless MAREY_ALLOW_URLS=true; send the file, as curl -F file=@PATH does"
        )
    url = await _url(request)
    async with Presence(request.receive):
        return await state.fetcher.fetch(url, spool=state.spool, max_bytes=max_bytes)


def is_url(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "application/json"


async def _url(request: Request) -> str:
    found = await read_object(request, max_bytes=_MAX_JSON, remedy=_REMEDY)
    if set(found) != {"url"} or not isinstance(found["url"], str):
        raise Malformed(f"the JSON is no object with a text named url alone; {_REMEDY}")
    return found["url"]
