"""A small JSON object from a body, read by us: FastAPI would take one of any size into memory."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request

from service.api.arrival import arriving
from service.errors import Malformed, TooLarge


async def read_object(request: Request, *, max_bytes: int, remedy: str) -> dict[str, Any]:
    """The object that the body holds, whatever its content type; an empty body holds none, {}.

    Raises Malformed, with `remedy` at its end, TooLarge, TooSlow or ClientGone.
    """
    body = bytearray()
    async for chunk in arriving(request):
        body += chunk
        if len(body) > max_bytes:
            raise TooLarge(f"the JSON has more than the {max_bytes} bytes allowed here; {remedy}")
    if not body.strip():
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is no JSON ({error}); {remedy}") from None
    if not isinstance(found, dict):
        raise Malformed(f"the body is a JSON {type(found).__name__}; {remedy}")
    return found
