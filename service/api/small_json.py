"""A small JSON object from a body, read by us: FastAPI would take one of any size into memory."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.errors import ClientGone, Malformed, TooLarge


async def read_object(request: Request, *, max_bytes: int, remedy: str) -> dict[str, Any]:
    """The object that the body holds, whatever its content type; an empty body holds none, {}.

    Raises Malformed, with `remedy` at its end, TooLarge or ClientGone.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise TooLarge(f"the JSON has more than the {max_bytes} bytes allowed here; {remedy}")
    except ClientDisconnect:
        raise ClientGone("the client hung up before the body was complete") from None
    if not body.strip():
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is no JSON ({error}); {remedy}") from None
    if not isinstance(found, dict):
        raise Malformed(f"the body is a JSON {type(found).__name__}; {remedy}")
    return found
